#pragma once
// Random numbers that are a function of a key and a counter: Philox4x32-10 (Salmon, Moraes, Dror and
// Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3", section 3.3).

#include <cstdint>

#include "csrc/numerics/host_device.h"

namespace softmax_ext {

struct PhiloxCounter {
  uint32_t words[4];
};
struct PhiloxKey {
  uint32_t words[2];
};

// Four words that are independent of those of every other counter and key.
SOFTMAX_EXT_HOST_DEVICE PhiloxCounter philox4x32(PhiloxCounter counter, PhiloxKey key) {
  constexpr uint64_t kMultipliers[] = {0xD2511F53, 0xCD9E8D57};
  constexpr uint32_t kWeyl[] = {0x9E3779B9, 0xBB67AE85};  // the golden ratio, √3 − 1
  SOFTMAX_EXT_UNROLL
  for (int round = 0; round < 10; ++round) {
    const uint64_t first = kMultipliers[0] * counter.words[0];
    const uint64_t second = kMultipliers[1] * counter.words[2];
    counter = {
        {static_cast<uint32_t>(second >> 32) ^ counter.words[1] ^ key.words[0],
         static_cast<uint32_t>(second),
         static_cast<uint32_t>(first >> 32) ^ counter.words[3] ^ key.words[1],
         static_cast<uint32_t>(first)}
    };
    key = {
        {key.words[0] + kWeyl[0], key.words[1] + kWeyl[1]}
    };
  }
  return counter;
}

// A multiple of 2^−53 in [0, 1): the one of draw `sample` from row `row` under `seed`.
SOFTMAX_EXT_HOST_DEVICE double uniform_of(uint64_t seed, uint64_t row, uint64_t sample) {
  const auto low = [](uint64_t x) { return static_cast<uint32_t>(x); };
  const auto high = [](uint64_t x) { return static_cast<uint32_t>(x >> 32); };
  const PhiloxCounter random = philox4x32(
      {
          {low(sample), high(sample), low(row), high(row)}
  },
      {{low(seed), high(seed)}});
  const uint64_t bits = static_cast<uint64_t>(random.words[1]) << 32 | random.words[0];
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

}  // namespace softmax_ext
