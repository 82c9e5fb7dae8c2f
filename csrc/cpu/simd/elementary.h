#pragma once
// exp and log1p of lanes. Coefficients are minimax fits, for relative error, of the functions named.

#include "csrc/cpu/simd/masks.h"

namespace softmax_ext::simd::SOFTMAX_EXT_LEVEL {

template <typename T>
struct ExpConstants;

template <>
struct ExpConstants<float> {
  static constexpr float kLowest = -104;                   // exp of it rounds to 0
  static constexpr float kLowestNormal = -0x1.5d589ep+6f;  // the least whose exp is normal
  static constexpr float kSubnormals = 149;                // 2^−149 is the least number above 0
  static constexpr float kRounder = 0x1.8p23f;             // added, it rounds to an integer
  static constexpr float kLn2High = 0x1.62e4p-1f;          // times any exponent without rounding
  static constexpr float kLn2Low = 0x1.7f7d1cp-20f;
  // (exp(r) − 1 − r) / r² for |r| ≤ ln(2)/2, from the highest degree down
  static constexpr float kCoefficients[] = {
      0x1.6db5bep-10f, 0x1.123c78p-7f, 0x1.55545cp-5f, 0x1.55548ep-3f, 0.5f};
};

template <>
struct ExpConstants<double> {
  static constexpr double kLowest = -746;
  static constexpr double kLowestNormal = -0x1.6232bdd7abcd2p+9;
  static constexpr double kSubnormals = 1074;
  static constexpr double kRounder = 0x1.8p52;
  static constexpr double kLn2High = 0x1.62e42fefa3000p-1;
  static constexpr double kLn2Low = 0x1.3de6af278ece6p-42;
  static constexpr double kCoefficients[] = {
      2.0927072433793695e-09,
      2.511246897467491e-08,
      2.7557232914769984e-07,
      2.7557233588017247e-06,
      2.4801587374308804e-05,
      0.00019841269897698997,
      0.0013888888888858115,
      0.008333333333316484,
      0.04166666666666673,
      0.16666666666666685,
      0.5};
};

// 2^exponent · x, where that is subnormal for some lanes, those of `is_low`: as whole multiples of the
// least number, rounded in the bits of a normal one. Arithmetic with subnormal numbers would take the
// processor a hundred times as long.
template <typename T>
SOFTMAX_EXT_INLINE Lanes<T> times_low_power_of_2(
    Lanes<T> x, Lanes<T> shifted, typename Lanes<T>::Bits is_low) {
  using Constants = ExpConstants<T>;
  using L = Lanes<T>;
  constexpr T kUnit = T(sizeof(T) == 4 ? 0x1p23 : 0x1p52);
  const L raised = shifted + select(is_low, L(Constants::kSubnormals), L(T(0)));
  const L scaled = times_power_of_2(x, raised - L(Constants::kRounder), raised);
  const auto multiples =
      (typename L::Words)(scaled + L(kUnit)).native - (typename L::Words)L(kUnit).native;
  return select(is_low, L((typename L::Native)multiples), scaled);
}

// exp(x) for x ≤ 0, subnormal results included; NaN for NaN. At most 1 ULP off: x = n ln 2 + r, a
// polynomial of r, and 2^n put on at the end.
template <typename T>
SOFTMAX_EXT_INLINE Lanes<T> exponential(Lanes<T> x) {
  using Constants = ExpConstants<T>;
  using L = Lanes<T>;
  x = larger(L(Constants::kLowest), x);
  const L shifted = multiply_add(x, L(T(1.4426950408889634074)), L(Constants::kRounder));
  const L n = shifted - L(Constants::kRounder);
  const L high = multiply_add(n, L(-Constants::kLn2High), x);  // exact
  const L r = multiply_add(n, L(-Constants::kLn2Low), high);
  L p = L(Constants::kCoefficients[0]);
#pragma GCC unroll 16
  for (unsigned i = 1; i < sizeof Constants::kCoefficients / sizeof(T); ++i)
    p = multiply_add(p, r, L(Constants::kCoefficients[i]));
#if defined(__FMA__)
  p = multiply_add(p, r, L(T(1)));
  p = multiply_add(p, r, L(T(1)));
#else
  // What r lost, and one large term less to round.
  const L lost = (high - r) - n * L(Constants::kLn2Low);
  p = L(T(1)) + (r + (lost + p * r * r));
#endif
  const L lowest_normal(Constants::kLowestNormal);
  const Mask<T> is_low = less(x, lowest_normal);
  if (__builtin_expect(is_any(is_low), 0)) {
    // What is masked or far below the maximum yields 0, which is no subnormal number.
    if (is_any(without(is_low, not_less(L(Constants::kLowest), x))))
      return times_low_power_of_2(p, shifted, x < lowest_normal);
    const L rounder(Constants::kRounder);
    const L raised = chosen(is_low, rounder, shifted);
    return chosen(is_low, L(T(0)), times_power_of_2(p, raised - rounder, raised));
  }
  return times_power_of_2(p, n, shifted);
}

template <typename T>
struct LogConstants;

template <>
struct LogConstants<float> {
  static constexpr int kMantissa = 23, kBias = 127;
  static constexpr int32_t kOne = 0x3f800000, kRootHalf = 0x3f3504f3;
  // (log((1 + s) / (1 − s)) − 2 s) / s³ as a polynomial of s²
  static constexpr float kCoefficients[] = {
      0x1.ddced8p-3f, 0x1.245c44p-2f, 0x1.9999ecp-2f, 0x1.555556p-1f};
};
template <>
struct LogConstants<double> {
  static constexpr int kMantissa = 52, kBias = 1023;
  static constexpr int64_t kOne = 0x3ff0000000000000, kRootHalf = 0x3fe6a09e00000000;
  static constexpr double kCoefficients[] = {
      0.14802188510571176,
      0.15313459785118727,
      0.18183586071297636,
      0.22222198182153532,
      0.28571428745913674,
      0.39999999999400204,
      0.6666666666666736};
};

// log(1 + x) for x ≥ −1: exact to the last bits near 0. With 1 + x = 2^k m, m in [√½, √2), and
// f = m − 1, log m is made of s = f / (2 + f) as log((1 + s) / (1 − s)).
template <typename T>
SOFTMAX_EXT_INLINE Lanes<T> logarithm_of_1_plus(Lanes<T> x) {
  using L = Lanes<T>;
  using Bits = typename L::Bits;
  using Native = typename L::Native;
  using Constants = LogConstants<T>;
  using Integer = decltype(Constants::kOne + 0);
  constexpr Integer kMask = (Integer(1) << Constants::kMantissa) - 1;
  const L sum = L(T(1)) + x;
  // What the sum lost, as its share of log(sum).
  const L lost = select(x > L(T(1)), L(T(1)) - (sum - x), x - (sum - L(T(1)))) / sum;
  const Bits bits =
      (Bits)((typename L::Words)sum.native + (Constants::kOne - Constants::kRootHalf));
  // An integer becomes a number by the bits of the one that rounds to integers.
  const L rounder(ExpConstants<T>::kRounder);
  const L k =
      L((Native)((bits >> Constants::kMantissa) - Constants::kBias + (Bits)rounder.native)) -
      rounder;
  const L f = L((Native)((bits & kMask) + Constants::kRootHalf)) - L(T(1));
  const L s = f / (L(T(2)) + f);
  const L z = s * s;
  L p = L(Constants::kCoefficients[0]);
#pragma GCC unroll 8
  for (unsigned i = 1; i < sizeof Constants::kCoefficients / sizeof(T); ++i)
    p = multiply_add(p, z, L(Constants::kCoefficients[i]));
  const L half_square = L(T(0.5)) * f * f;
  const L low = multiply_add(k, L(ExpConstants<T>::kLn2Low), lost);
  const L high = k * L(ExpConstants<T>::kLn2High);
  const L log = high - ((half_square - multiply_add(s, half_square + z * p, low)) - f);
  const L finite = select(sum == L(T(0)), L(-kInfinity<T>), log);
  return select(x < L(kInfinity<T>), finite, x);  // +inf and NaN as they are
}

// exp(x) − 1 for x ≤ 0. Near 0 a float keeps all digits in double, where x has more than it.
SOFTMAX_EXT_INLINE Lanes<float> exponential_minus_1(Lanes<float> x) {
  Lanes<double> halves[2];
  split(x, halves);
  const Lanes<double> one(1.0);
  const Lanes<float> difference = join(exponential(halves[0]) - one, exponential(halves[1]) - one);
  return select(x > Lanes<float>(-1e-7f), x, difference);
}
// Once a row, and of the least common type.
SOFTMAX_EXT_INLINE Lanes<double> exponential_minus_1(Lanes<double> x) {
  for (int i = 0; i < Lanes<double>::kCount; ++i) x.native[i] = ::expm1(x.native[i]);
  return x;
}

// tanh(x), at most 2 ULP off: near 0 by a polynomial of x², else by exp(−2|x|).
SOFTMAX_EXT_INLINE Lanes<float> hyperbolic_tangent(Lanes<float> x) {
  using L = Lanes<float>;
  using Bits = L::Bits;
  // (tanh(x)/x − 1) / x² for |x| ≤ 0.625
  constexpr float kCoefficients[] = {
      0x1.18e1dcp-9f,
      -0x1.0bf4fcp-7f,
      0x1.638b58p-6f,
      -0x1.b9ee90p-5f,
      0x1.111066p-3f,
      -0x1.555554p-2f};
  const Bits sign = (Bits)x.native & (Bits)L(-0.0f).native;
  const L magnitude((L::Native)((Bits)x.native ^ sign));
  const L square = x * x;
  L p(kCoefficients[0]);
#pragma GCC unroll 8
  for (unsigned i = 1; i < sizeof kCoefficients / sizeof(float); ++i)
    p = multiply_add(p, square, L(kCoefficients[i]));
  const L near = multiply_add(x * square, p, x);
  const L power = exponential(magnitude * L(-2.0f));
  const L far = (L(1.0f) - power) / (L(1.0f) + power);
  const L signed_far((L::Native)((Bits)far.native | sign));
  return select(magnitude < L(0.625f), near, signed_far);
}
SOFTMAX_EXT_INLINE Lanes<double> hyperbolic_tangent(Lanes<double> x) {
  for (int i = 0; i < Lanes<double>::kCount; ++i) x.native[i] = ::tanh(x.native[i]);
  return x;
}

}  // namespace softmax_ext::simd::SOFTMAX_EXT_LEVEL
