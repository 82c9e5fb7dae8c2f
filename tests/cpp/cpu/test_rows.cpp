// The tables of csrc/cpu/simd on rows and columns, without torch: for each instruction set.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <string_view>
#include <type_traits>
#include <vector>

#include "csrc/cpu/simd/kernels.h"

#define SOFTMAX_EXT_TEXT_OF(x) #x
#define SOFTMAX_EXT_TEXT(x) SOFTMAX_EXT_TEXT_OF(x)

namespace softmax_ext::simd {
namespace {

class Rows : public testing::Test {
  void SetUp() override {
    constexpr std::string_view kLevel = SOFTMAX_EXT_TEXT(SOFTMAX_EXT_LEVEL);
    bool is_supported = true;
#if defined(__x86_64__)
    if (kLevel == "avx512")
      is_supported = __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
    if (kLevel == "avx2")
      is_supported = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    if (!is_supported) GTEST_SKIP() << "this processor has no " << kLevel;
  }
};

std::vector<float> normal_values(int64_t count) {
  std::mt19937 generator(0);
  std::normal_distribution<float> normal(0, 3);
  std::vector<float> values(count);
  for (float& value : values) value = normal(generator);
  return values;
}

// Short rows, batches on both sides of their bound in every instruction set, and longer rows.
const int64_t kLengths[] = {1,  2,  3,  4,  7,  8,   9,   15,  16,  17,   31,
                            32, 33, 63, 64, 65, 127, 128, 129, 256, 1000, 4096};
constexpr int64_t kRows = 21;

// element(r, j) of `logits` and `probs` for all rows.
template <typename At>
void expect_probs(
    const std::vector<float>& logits, const std::vector<float>& probs, int64_t length, At at) {
  for (int64_t r = 0; r < kRows; ++r) {
    double max = -INFINITY, sum = 0;
    for (int64_t j = 0; j < length; ++j) max = std::fmax(max, logits[at(r, j)]);
    for (int64_t j = 0; j < length; ++j) sum += std::exp(logits[at(r, j)] - max);
    for (int64_t j = 0; j < length; ++j) {
      const double distance = max - logits[at(r, j)];
      const double expected = std::exp(-distance) / sum;
      ASSERT_NEAR(probs[at(r, j)], expected, 8 * 0x1p-24 * (1 + distance) * expected)
          << "length " << length << ", row " << r << ", column " << j;
    }
  }
}

TEST_F(Rows, SoftmaxOfRowsAndOfColumns) {
  const float one = 1;
  for (const int64_t length : kLengths) {
    const auto logits = normal_values(kRows * length);
    std::vector<float> probs(logits.size()), scratch(length * kColumns);
    Logits<float, float> arguments{
        logits.data(),
        length,
        probs.data(),
        length,
        kRows,
        length,
        {&one, 0},
        scratch.data(),
        {&one, 0}
    };
    SOFTMAX_EXT_LEVEL::softmax_table.f32.rows(arguments);
    expect_probs(logits, probs, length, [&](int64_t r, int64_t j) { return r * length + j; });
    arguments.in_stride = arguments.out_stride = kRows;
    SOFTMAX_EXT_LEVEL::softmax_table.f32.columns(arguments);
    expect_probs(logits, probs, length, [](int64_t r, int64_t j) { return j * kRows + r; });
  }
}

TEST_F(Rows, LogSoftmaxIsTheLogOfSoftmax) {
  const float one = 1;
  for (const int64_t length : kLengths) {
    const auto logits = normal_values(kRows * length);
    std::vector<float> logs(logits.size()), probs(logits.size()), scratch(length * kColumns);
    Logits<float, float> arguments{
        logits.data(),
        length,
        logs.data(),
        length,
        kRows,
        length,
        {&one, 0},
        scratch.data(),
        {&one, 0}
    };
    SOFTMAX_EXT_LEVEL::log_softmax_table.f32.rows(arguments);
    arguments.out = probs.data();
    SOFTMAX_EXT_LEVEL::softmax_table.f32.rows(arguments);
    for (std::size_t i = 0; i < logs.size(); ++i)
      ASSERT_NEAR(logs[i], std::log(double(probs[i])), 1e-5) << "length " << length;
  }
}

TEST_F(Rows, TheGradientOfProbabilitiesSumsTo0) {
  const float one = 1;
  for (const int64_t length : kLengths) {
    const auto logits = normal_values(kRows * length);
    const auto grads = normal_values(kRows * length);
    std::vector<float> probs(logits.size()), result(logits.size()), scratch(length * kColumns);
    SOFTMAX_EXT_LEVEL::softmax_table.f32.rows({
        logits.data(),
        length,
        probs.data(),
        length,
        kRows,
        length,
        {&one, 0},
        scratch.data(),
        {&one, 0}
    });
    SOFTMAX_EXT_LEVEL::softmax_backward_table.f32.rows({
        grads.data(),
        length,
        probs.data(),
        length,
        result.data(),
        length,
        kRows,
        length,
        {&one, 0}
    });
    for (int64_t r = 0; r < kRows; ++r) {
      double dot = 0, sum = 0;
      for (int64_t j = r * length; j < (r + 1) * length; ++j) dot += double(grads[j]) * probs[j];
      for (int64_t j = r * length; j < (r + 1) * length; ++j) {
        sum += result[j];
        ASSERT_NEAR(result[j], probs[j] * (grads[j] - dot), 1e-5 * probs[j] + 1e-9)
            << "length " << length;
      }
      ASSERT_NEAR(sum, 0, 1e-5);
    }
  }
}

// The entropy and its gradient of each row, element(r, j) at at(r, j), in double.
struct EntropyReference {
  double entropy = 0;
  std::vector<double> gradient;

  template <typename At>
  EntropyReference(const std::vector<float>& logits, int64_t r, int64_t length, At at) {
    double max = -INFINITY, sum = 0, mean = 0;
    for (int64_t j = 0; j < length; ++j) max = std::fmax(max, logits[at(r, j)]);
    for (int64_t j = 0; j < length; ++j) sum += std::exp(logits[at(r, j)] - max);
    for (int64_t j = 0; j < length; ++j) {
      const double distance = max - logits[at(r, j)];
      mean += std::exp(-distance) / sum * distance;
    }
    entropy = std::log(sum) + mean;
    for (int64_t j = 0; j < length; ++j) {
      const double distance = max - logits[at(r, j)];
      gradient.push_back(std::exp(-distance) / sum * (distance - mean));
    }
  }
};

TEST_F(Rows, EntropyAndItsGradientOfRowsAndOfColumns) {
  const float one = 1, two = 2;
  for (const int64_t length : kLengths) {
    const auto logits = normal_values(kRows * length);
    const auto expect_all = [&](auto entropies, auto gradients, int64_t stride, auto at) {
      float max[kRows], log_sum[kRows], mean_distance[kRows];
      entropies({
          logits.data(), stride, kRows, length, {&one, 0},
              max, log_sum, mean_distance
      });
      std::vector<float> result(logits.size());
      gradients({
          logits.data(),
          stride,
          result.data(),
          stride,
          kRows,
          length,
          {&one, 0},
          nullptr,
          {&two, 0}
      });
      for (int64_t r = 0; r < kRows; ++r) {
        const EntropyReference expected(logits, r, length, at);
        // Distances of logits with a deviation of 3 are below 32.
        ASSERT_NEAR(
            log_sum[r] + mean_distance[r], expected.entropy, 32 * 0x1p-24 * (1 + expected.entropy))
            << "length " << length;
        for (int64_t j = 0; j < length; ++j)
          ASSERT_NEAR(result[at(r, j)], 2 * expected.gradient[j], 3e-6)
              << "length " << length << ", row " << r << ", column " << j;
      }
    };
    const auto& sums = SOFTMAX_EXT_LEVEL::entropy_table.f32;
    const auto& backward = SOFTMAX_EXT_LEVEL::entropy_backward_table.f32;
    expect_all(
        sums.rows, backward.rows, length, [&](int64_t r, int64_t j) { return r * length + j; });
    expect_all(
        sums.columns, backward.columns, kRows, [](int64_t r, int64_t j) { return j * kRows + r; });
  }
}

template <typename T>
bool is_nan(T x) {
  if constexpr (sizeof(T) == 2)
    return (x.bits & 0x7fff) > (std::is_same_v<T, BFloat16> ? 0x7f80 : 0x7c00);
  else
    return x != x;
}

// The bits of softmax where what is left out is −inf: beside a mask for each row, one for all rows, and
// one that begins a byte earlier for each.
template <typename T>
void expect_masked(
    const MaskedSoftmaxKernels<T, T>& masked,
    const SoftmaxKernels<T, T>& softmax,
    const std::vector<T>& values,
    T minus_infinity) {
  using Lane = LaneOf<T>;
  const Lane scale = 1;
  for (const int64_t length : kLengths) {
    if (kRows * length > static_cast<int64_t>(values.size())) continue;
    std::vector<uint8_t> mask(kRows * length + kRows);
    for (std::size_t j = 0; j < mask.size(); ++j) mask[j] = static_cast<uint8_t>(j * j % 3);
    for (const int64_t stride : {length, int64_t{0}, int64_t{-1}}) {
      const uint8_t* const first = mask.data() + (stride < 0 ? kRows : 0);
      std::vector<T> filled(kRows * length), expected(kRows * length), actual(kRows * length);
      std::vector<Lane> terms(kRows * std::max(length, kColumns));
      // Of a tensor and of its mask: what lies between rows and between elements.
      const auto fill = [&](int64_t row, int64_t element, int64_t mask_row, int64_t mask_element) {
        for (int64_t r = 0; r < kRows; ++r)
          for (int64_t j = 0; j < length; ++j) {
            const int64_t at = r * row + j * element;
            filled[at] = first[r * mask_row + j * mask_element] != 0 ? values[at] : minus_infinity;
          }
      };
      const auto expect_same = [&](const char* what) {
        for (std::size_t i = 0; i < actual.size(); ++i)
          ASSERT_TRUE(
              std::memcmp(&actual[i], &expected[i], sizeof(T)) == 0 ||
              (is_nan(actual[i]) && is_nan(expected[i])))
              << what << " of length " << length << ", mask stride " << stride;
      };
      fill(length, 1, stride, 1);
      const RowValues<Lane> scales{&scale, 0}, none{nullptr, 0};
      softmax.rows(
          {filled.data(),
           length,
           expected.data(),
           length,
           kRows,
           length,
           scales,
           terms.data(),
           none});
      masked.rows({
          {values.data(), first, stride},
          length,
          actual.data(),
          length,
          kRows,
          length,
          scales,
          terms.data(),
          none
      });
      expect_same("rows");
      if (stride < 0) continue;
      const int64_t mask_column = stride == 0 ? 0 : kRows;
      fill(1, kRows, 1, mask_column);
      terms.resize(length * kColumns);
      softmax.columns(
          {filled.data(),
           kRows,
           expected.data(),
           kRows,
           kRows,
           length,
           scales,
           terms.data(),
           none});
      masked.columns({
          {values.data(), first, mask_column},
          kRows,
          actual.data(),
          kRows,
          kRows,
          length,
          scales,
          terms.data(),
          none
      });
      expect_same("columns");
    }
  }
}

TEST_F(Rows, WhatAMaskLeavesOutIsMinusInfinity) {
  const auto& masked = SOFTMAX_EXT_LEVEL::masked_softmax_table;
  const auto& softmax = SOFTMAX_EXT_LEVEL::softmax_table;
  const auto values = normal_values(kRows * 1000);
  const auto halves = [&]<typename T>(T) {
    std::vector<T> elements;  // of both signs, and no NaN
    for (std::size_t i = 0; i < values.size(); ++i)
      elements.push_back({static_cast<uint16_t>(0x3000 + i * 37 % 0x1000 + (i % 2 ? 0x8000 : 0))});
    return elements;
  };
  expect_masked(masked.f32, softmax.f32, values, -INFINITY);
  const std::vector<double> doubles(values.begin(), values.end());
  expect_masked(masked.f64, softmax.f64, doubles, double(-INFINITY));
  expect_masked(masked.bf16, softmax.bf16, halves(BFloat16()), BFloat16{0xff80});
  expect_masked(masked.f16, softmax.f16, halves(Float16()), Float16{0xfc00});
}

}  // namespace
}  // namespace softmax_ext::simd
