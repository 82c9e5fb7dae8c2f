#pragma once
// Obvious references in long double, and the logits that hurt.

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace softmax_ext::reference {

inline constexpr float kInf = std::numeric_limits<float>::infinity();
inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
inline constexpr double kFloatUnit = std::numeric_limits<float>::epsilon() / 2;

template <typename T>
std::vector<long double> shifted(const std::vector<T>& logits, double temperature = 1) {
  const long double max = *std::max_element(logits.begin(), logits.end());
  std::vector<long double> values;
  for (const T logit : logits) values.push_back((logit - max) / temperature);
  return values;
}

template <typename T>
long double log_sum(const std::vector<T>& logits, double temperature = 1) {
  long double sum = 0;
  for (const long double value : shifted(logits, temperature)) sum += std::exp(value);
  return std::log(sum);
}

template <typename T>
std::vector<long double> softmax(const std::vector<T>& logits, double temperature = 1) {
  const long double log_sum_exp = log_sum(logits, temperature);
  std::vector<long double> probs;
  for (const long double value : shifted(logits, temperature))
    probs.push_back(std::exp(value - log_sum_exp));
  return probs;
}

inline std::vector<float> normal_logits(int length, float deviation, unsigned seed = 0) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0, deviation);
  std::vector<float> logits(length);
  for (float& logit : logits) logit = normal(generator);
  return logits;
}

}  // namespace softmax_ext::reference
