#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <set>

#include "cuda/launch_policy.h"

namespace softmax_ext::cuda {
namespace {

constexpr Pass kPasses[] = {Pass::forward, Pass::backward};

constexpr auto kSmallTable = std::to_array<LaunchPolicy>({
    { 64, Mapping::warp_per_row,  8,  8, 128},
    {512, Mapping::warp_per_row, 32, 16,  64},
});

TEST(LaunchPolicy, BoundsAreInclusive) {
  EXPECT_EQ(choose_policy(kSmallTable, 1), 0u);
  EXPECT_EQ(choose_policy(kSmallTable, 63), 0u);
  EXPECT_EQ(choose_policy(kSmallTable, 64), 0u);
  EXPECT_EQ(choose_policy(kSmallTable, 65), 1u);
  EXPECT_EQ(choose_policy(kSmallTable, 512), 1u);
  EXPECT_EQ(choose_policy(kSmallTable, 513), std::nullopt);
}

TEST(LaunchPolicy, EveryRowOfATableIsReachable) {
  for (const Pass pass : kPasses) {
    std::set<std::size_t> chosen;
    for (int64_t length = 1; length <= max_length(pass); ++length)
      chosen.insert(choose_policy(length, pass).value());
    EXPECT_EQ(chosen.size(), policies_of(pass).size());
  }
}

TEST(LaunchPolicy, EachBoundSeparatesTwoRows) {
  for (const Pass pass : kPasses) {
    const auto table = policies_of(pass);
    for (std::size_t i = 0; i < table.size(); ++i) {
      const int64_t bound = table[i].max_length;
      EXPECT_EQ(choose_policy(bound - 1, pass), i) << bound;
      EXPECT_EQ(choose_policy(bound, pass), i) << bound;
      const auto next = i + 1 < table.size() ? std::optional(i + 1) : std::nullopt;
      EXPECT_EQ(choose_policy(bound + 1, pass), next) << bound;
    }
  }
}

TEST(LaunchPolicy, ARowFitsInItsLanes) {
  for (const Pass pass : kPasses) {
    for (int64_t length = 1; length <= max_length(pass); ++length) {
      const LaunchPolicy policy = policies_of(pass)[choose_policy(length, pass).value()];
      if (policy.mapping == Mapping::warp_per_row) {
        EXPECT_GE(policy.lanes_per_row * policy.elements_per_lane, length);
      }
    }
  }
}

TEST(LaunchPolicy, ALaneIsNeverLeftWithMoreThanHalfOfItsElementsUnused) {
  for (const Pass pass : kPasses) {
    const auto table = policies_of(pass);
    for (std::size_t i = 1; i < table.size(); ++i)
      EXPECT_LE(table[i].max_length, 2 * table[i - 1].max_length) << table[i].max_length;
  }
}

TEST(LaunchPolicy, ATooLongRowHasNone) {
  for (const Pass pass : kPasses) {
    EXPECT_EQ(choose_policy(max_length(pass) + 1, pass), std::nullopt);
    EXPECT_EQ(choose_policy(int64_t{1} << 32, pass), std::nullopt);  // 0 in 32 bits
    EXPECT_EQ(choose_policy(std::numeric_limits<int64_t>::max(), pass), std::nullopt);
  }
}

TEST(LaunchPolicy, ThePassChoosesTheTable) {
  EXPECT_EQ(policies_of(Pass::forward).data(), kForwardPolicies.data());
  EXPECT_EQ(policies_of(Pass::backward).data(), kBackwardPolicies.data());
}

int64_t chosen_length(int64_t length) {
  return with_policy<kSmallTable>(
      length, int64_t{-1}, []<typename Policy>() { return Policy::kValue.max_length; });
}

TEST(LaunchPolicy, ARowReachesTheBodyAsAType) {
  EXPECT_EQ(chosen_length(64), 64);
  EXPECT_EQ(chosen_length(65), 512);
  EXPECT_EQ(chosen_length(513), -1);
}

TEST(LaunchPolicy, TheBodyIsCalledOnce) {
  for (const int64_t length : {1, 64, 65, 512, 513}) {
    int calls = 0;
    with_policy<kSmallTable>(length, 0, [&]<typename Policy>() { return ++calls; });
    EXPECT_EQ(calls, length <= 512 ? 1 : 0) << length;
  }
}

constexpr LaunchPolicy kSound{256, Mapping::warp_per_row, 32, 8, 128};

constexpr bool is_sound_with(auto change) {
  LaunchPolicy policy = kSound;
  change(policy);
  return is_sound({&policy, 1});
}

TEST(LaunchPolicy, UnsoundRowsAreSeen) {
  EXPECT_TRUE(is_sound_with([](LaunchPolicy&) {}));
  EXPECT_FALSE(is_sound_with([](LaunchPolicy& p) { p.max_length = 255; }));
  EXPECT_FALSE(is_sound_with([](LaunchPolicy& p) { p.threads_per_block = 100; }));
  EXPECT_FALSE(is_sound_with([](LaunchPolicy& p) { p.threads_per_block = 2048; }));
  EXPECT_FALSE(is_sound_with([](LaunchPolicy& p) { p.threads_per_block = 0; }));
  EXPECT_FALSE(is_sound_with([](LaunchPolicy& p) { p.lanes_per_row = 64, p.max_length = 512; }));
  EXPECT_FALSE(is_sound_with([](LaunchPolicy& p) { p.lanes_per_row = 24, p.max_length = 192; }));
  EXPECT_FALSE(is_sound_with([](LaunchPolicy& p) { p.elements_per_lane = 4, p.max_length = 128; }));
}

TEST(LaunchPolicy, BoundsThatDoNotAscendAreSeen) {
  constexpr LaunchPolicy kEqual[] = {kSound, kSound};
  constexpr LaunchPolicy kDescending[] = {
      kSound, {64, Mapping::warp_per_row, 8, 8, 128}
  };
  EXPECT_FALSE(is_sound(kEqual));
  EXPECT_FALSE(is_sound(kDescending));
  EXPECT_FALSE(is_sound({}));
}

}  // namespace
}  // namespace softmax_ext::cuda
