// The elementary functions and conversions of csrc/cpu/simd, compiled once per instruction set. With
// EXHAUSTIVE=1 in the environment, exp takes every float32 of its range (`make check-exp`).

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <random>
#include <vector>

#include "csrc/cpu/simd/elementary.h"

#define SOFTMAX_EXT_TEXT_OF(x) #x
#define SOFTMAX_EXT_TEXT(x) SOFTMAX_EXT_TEXT_OF(x)

namespace softmax_ext::simd::SOFTMAX_EXT_LEVEL {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

bool is_supported() {
#if defined(__AVX512F__)
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#elif defined(__AVX2__)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return true;
#endif
}

class Elementary : public testing::Test {
  void SetUp() override {
    if (!is_supported())
      GTEST_SKIP() << "this processor has no " SOFTMAX_EXT_TEXT(SOFTMAX_EXT_LEVEL);
  }
};

// Function(lanes) of as many numbers as there are.
template <typename T, typename Function>
std::vector<T> mapped(const std::vector<T>& x, Function function) {
  constexpr int kCount = Lanes<T>::kCount;
  std::vector<T> y(x.size());
  for (std::size_t at = 0; at < x.size(); at += kCount) {
    const int some = static_cast<int>(std::min<std::size_t>(kCount, x.size() - at));
    store_some(y.data() + at, function(load_some(x.data() + at, some, Lanes<T>(T(0)))), some);
  }
  return y;
}

// The distance of neighbours of T at `value`, down to the subnormal ones.
template <typename T>
long double ulp(long double value) {
  using Limits = std::numeric_limits<T>;
  int exponent = 0;
  std::frexp(value, &exponent);
  return std::ldexp(
      1.0L, std::max(exponent - Limits::digits, Limits::min_exponent - Limits::digits));
}

template <typename T, typename Function, typename Exact>
void expect_within(double ulps, const std::vector<T>& x, Function function, Exact exact) {
  const auto actual = mapped(x, function);
  for (std::size_t i = 0; i < x.size(); ++i) {
    const long double expected = exact(static_cast<long double>(x[i]));
    ASSERT_LE(std::fabs(actual[i] - expected), ulps * ulp<T>(expected))
        << "at " << x[i] << " got " << actual[i];
  }
}

template <typename T>
Lanes<T> exp_of(Lanes<T> x) {
  return exponential(x);
}
template <typename T>
Lanes<T> log1p_of(Lanes<T> x) {
  return logarithm_of_1_plus(x);
}

TEST_F(Elementary, ExpOfFloat32IsWithinOneUlp) {
  const char* const exhaustive = std::getenv("EXHAUSTIVE");
  const uint32_t step = exhaustive != nullptr && *exhaustive == '1' ? 1 : 97;
  const uint32_t last = std::bit_cast<uint32_t>(-104.5f);
  std::vector<float> x;
  for (uint64_t bits = std::bit_cast<uint32_t>(-0.f); bits <= last; bits += step) {
    x.push_back(std::bit_cast<float>(static_cast<uint32_t>(bits)));
    if (x.size() < 4096 && bits + step <= last) continue;
    expect_within(1, x, exp_of<float>, [](long double v) { return std::exp(double(v)); });
    if (HasFatalFailure()) return;
    x.clear();
  }
}

TEST_F(Elementary, ExpOfFloat64IsWithinOneUlp) {
  std::mt19937_64 generator(0);
  std::vector<double> x{0, -0x1p-60, -708.39, -708.4, -745.13, -745.14, -746, -1e300};
  for (const double range : {1e-3, 1.0, 40.0, 746.0})
    for (int i = 0; i < 100'000; ++i)
      x.push_back(-range * std::uniform_real_distribution<double>()(generator));
  expect_within(1.01, x, exp_of<double>, [](long double v) { return std::exp(v); });
}

TEST_F(Elementary, ExpOfSpecialNumbers) {
  const float inf = float(kInf);
  const auto y = mapped<float>({-inf, NAN, -200, -3e38f, 0, -inf, -1}, exp_of<float>);
  EXPECT_EQ(y[0], 0);
  EXPECT_TRUE(std::isnan(y[1]));
  EXPECT_EQ(y[2], 0);
  EXPECT_EQ(y[3], 0);
  EXPECT_EQ(y[4], 1);
  EXPECT_EQ(y[5], 0);
  const auto z = mapped<double>({-kInf, NAN, -2000, 0}, exp_of<double>);
  EXPECT_EQ(z[0], 0);
  EXPECT_TRUE(std::isnan(z[1]));
  EXPECT_EQ(z[2], 0);
  EXPECT_EQ(z[3], 1);
}

template <typename T>
void test_log1p() {
  std::mt19937_64 generator(0);
  std::vector<T> x{
      0, T(-0.5), T(-0.999), 1, std::numeric_limits<T>::max(), std::numeric_limits<T>::min()};
  for (int exponent = -60; exponent <= 60; ++exponent)
    for (int i = 0; i < 1000; ++i)
      x.push_back(std::ldexp(T(std::uniform_real_distribution<double>(1, 2)(generator)), exponent));
  expect_within(1, x, log1p_of<T>, [](long double v) { return std::log1p(v); });
  const auto special = mapped<T>({T(kInf), T(NAN), T(-1)}, log1p_of<T>);
  EXPECT_EQ(special[0], T(kInf));
  EXPECT_TRUE(std::isnan(special[1]));
  EXPECT_EQ(special[2], T(-kInf));
}
TEST_F(Elementary, LogOf1PlusFloat32IsWithinOneUlp) { test_log1p<float>(); }
TEST_F(Elementary, LogOf1PlusFloat64IsWithinOneUlp) { test_log1p<double>(); }

TEST_F(Elementary, ExpMinus1IsWithinOneUlp) {
  std::mt19937_64 generator(0);
  std::vector<float> x{0, -1e-30f, -1e-7f, -2e-7f, -104};
  for (int exponent = -40; exponent <= 6; ++exponent)
    for (int i = 0; i < 1000; ++i)
      x.push_back(
          -std::ldexp(float(std::uniform_real_distribution<double>(1, 2)(generator)), exponent));
  expect_within(
      1,
      x,
      [](Lanes<float> v) { return exponential_minus_1(v); },
      [](long double v) { return std::expm1(v); });
}

float widened_exactly(uint16_t bits, BFloat16) {
  return std::bit_cast<float>(uint32_t(bits) << 16);
}
float widened_exactly(uint16_t bits, Float16) {
  const int exponent = bits >> 10 & 31;
  const float sign = bits >> 15 != 0 ? -1.f : 1.f;
  const int mantissa = bits & 1023;
  if (exponent == 31) return mantissa != 0 ? NAN : sign * float(kInf);
  if (exponent == 0) return sign * std::ldexp(float(mantissa), -24);
  return sign * std::ldexp(float(mantissa + 1024), exponent - 25);
}

// Every element is widened to its value, and comes back; what lies between two goes to the nearer, or
// to the even one.
template <typename T>
void test_conversions() {
  constexpr int kPair = 2 * Lanes<float>::kCount;
  for (uint32_t first = 0; first < 0x10000; first += kPair) {
    T elements[kPair], back[kPair], nearest[kPair];
    float lanes[kPair], between[kPair];
    for (int i = 0; i < kPair; ++i) elements[i].bits = static_cast<uint16_t>(first + i);
    store(lanes, load(elements));
    store(lanes + kPair / 2, load(elements + kPair / 2));
    store_pair(back, load_pair(elements));
    for (int i = 0; i < kPair; ++i) {
      const float exact = widened_exactly(elements[i].bits, T());
      if (std::isnan(exact)) {
        ASSERT_TRUE(std::isnan(lanes[i]) && std::isnan(widened_exactly(back[i].bits, T())));
        between[i] = 0;
        continue;
      }
      ASSERT_EQ(std::bit_cast<uint32_t>(lanes[i]), std::bit_cast<uint32_t>(exact));
      ASSERT_EQ(back[i].bits, elements[i].bits);
      T next = elements[i];
      next.bits += 1;
      const float above = widened_exactly(next.bits, T());
      between[i] = std::isfinite(exact) && std::isfinite(above) ? exact / 2 + above / 2 : exact;
    }
    store(nearest, load(between));
    store(nearest + kPair / 2, load(between + kPair / 2));
    for (int i = 0; i < kPair; ++i) {
      const float exact = widened_exactly(elements[i].bits, T());
      if (std::isnan(exact)) continue;
      const bool is_even = elements[i].bits % 2 == 0;
      ASSERT_EQ(nearest[i].bits, elements[i].bits + (between[i] != exact && !is_even)) << exact;
    }
  }
}
TEST_F(Elementary, BFloat16IsRoundedToNearestEven) { test_conversions<BFloat16>(); }
TEST_F(Elementary, Float16IsRoundedToNearestEven) { test_conversions<Float16>(); }

}  // namespace
}  // namespace softmax_ext::simd::SOFTMAX_EXT_LEVEL
