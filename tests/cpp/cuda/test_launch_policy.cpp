#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <set>
#include <vector>

#include "cuda/launch_policy.h"

namespace softmax_ext::cuda {
namespace {

constexpr LaunchConditions kUsual{
    .has_clusters = true, .keeps_rows = true, .reduces = true, .row_count_splits = false};

constexpr LaunchConditions with(auto change) {
  LaunchConditions conditions = kUsual;
  change(conditions);
  return conditions;
}

Mapping chosen(Pass pass, int64_t packs, const LaunchConditions& conditions) {
  return policies_of(pass)[choose_policy(policies_of(pass), packs, conditions)].mapping;
}

// The last bound of the rows that a block or a cluster keeps.
int64_t longest(Pass pass, Mapping mapping) {
  int64_t packs = 0;
  for (const LaunchPolicy& policy : policies_of(pass))
    if (policy.mapping == mapping) packs = policy.max_packs;
  return packs;
}

TEST(LaunchPolicy, EveryRowOfATableIsReachable) {
  for (const Pass pass : kPasses) {
    const auto table = policies_of(pass);
    std::set<std::size_t> reached{
        choose_policy(table, kAnyLength, kUsual),
        choose_policy(
            table, kAnyLength, with([](LaunchConditions& c) { c.row_count_splits = true; }))};
    for (const LaunchPolicy& policy : table)
      if (policy.max_packs != kAnyLength)
        reached.insert(choose_policy(table, policy.max_packs, kUsual));
    EXPECT_EQ(reached.size(), table.size());
  }
}

TEST(LaunchPolicy, BoundsAreInclusive) {
  for (const Pass pass : kPasses) {
    const auto table = policies_of(pass);
    for (std::size_t i = 0; table[i].max_packs != kAnyLength; ++i) {
      EXPECT_EQ(choose_policy(table, table[i].max_packs, kUsual), i);
      EXPECT_EQ(choose_policy(table, table[i].max_packs + 1, kUsual), i + 1);
    }
  }
}

TEST(LaunchPolicy, AChosenMappingHoldsTheRow) {
  for (const Pass pass : kPasses)
    for (int64_t packs = 1; packs < 20000; packs += packs < 300 ? 1 : 97) {
      const LaunchPolicy policy =
          policies_of(pass)[choose_policy(policies_of(pass), packs, kUsual)];
      if (policy.max_packs == kAnyLength) continue;
      EXPECT_GE(policy.threads_per_row * policy.packs_per_thread * policy.blocks_per_row, packs);
    }
}

TEST(LaunchPolicy, WithoutClustersALongRowIsReadTwice) {
  for (const Pass pass : kPasses) {
    const int64_t packs = longest(pass, Mapping::block_per_row) + 1;
    EXPECT_EQ(chosen(pass, packs, kUsual), Mapping::cluster_per_row);
    EXPECT_EQ(
        chosen(pass, packs, with([](LaunchConditions& c) { c.has_clusters = false; })),
        Mapping::reread_row);
  }
}

TEST(LaunchPolicy, ARowThatIsNeededOnceTakesNoCluster) {
  const int64_t packs = longest(Pass::forward, Mapping::block_per_row) + 1;
  EXPECT_EQ(
      chosen(Pass::forward, packs, with([](LaunchConditions& c) { c.keeps_rows = false; })),
      Mapping::reread_row);
}

TEST(LaunchPolicy, AMapWithoutASummaryTakesTilesOfAnyLongRow) {
  for (const bool splits : {false, true})
    EXPECT_EQ(
        chosen(Pass::forward, kAnyLength, with([=](LaunchConditions& c) {
                 c.reduces = c.keeps_rows = false;
                 c.row_count_splits = splits;
               })),
        Mapping::split_row);
}

// Only this may depend on the number of rows: the two have the same tiles.
TEST(LaunchPolicy, FewRowsAreSplitOnlyWhereTheyWouldBeReadTwice) {
  const auto few = with([](LaunchConditions& c) { c.row_count_splits = true; });
  for (const Pass pass : kPasses)
    for (const LaunchPolicy& policy : policies_of(pass)) {
      const Mapping many = chosen(pass, policy.max_packs, kUsual);
      const Mapping split = chosen(pass, policy.max_packs, few);
      EXPECT_EQ(split, many == Mapping::reread_row ? Mapping::split_row : many);
    }
  EXPECT_TRUE(row_count_splits(131, 132));
  EXPECT_FALSE(row_count_splits(132, 132));
}

TEST(LaunchPolicy, ALaneIsNeverLeftWithMoreThanThreeQuartersOfItsPacksUnused) {
  for (const Pass pass : kPasses) {
    const auto table = policies_of(pass);
    for (std::size_t i = 1; table[i].max_packs != kAnyLength; ++i)
      EXPECT_LE(table[i].max_packs, 4 * table[i - 1].max_packs);
  }
}

TEST(LaunchPolicy, ASlabIsForShortRowsOfSmallElements) {
  EXPECT_TRUE(fits_slab(1, 8));
  EXPECT_TRUE(fits_slab(32, 4));
  EXPECT_FALSE(fits_slab(33, 2));
  EXPECT_TRUE(fits_slab(16, 8));
  EXPECT_FALSE(fits_slab(17, 8));
}

TEST(LaunchPolicy, ARowOfTheTableReachesTheBodyAsAType) {
  for (std::size_t i = 0; i < kForwardPolicies.size(); ++i) {
    int calls = 0;
    const int64_t packs = with_policy<Pass::forward, int64_t>(i, [&]<typename Policy>() {
      ++calls;
      EXPECT_EQ(Policy::Shape::kThreads, kForwardPolicies[i].threads_per_block);
      EXPECT_EQ(Policy::Shape::kThreadsPerRow, kForwardPolicies[i].threads_per_row);
      EXPECT_EQ(Policy::Shape::kPacks, kForwardPolicies[i].packs_per_thread);
      return Policy::kValue.max_packs;
    });
    EXPECT_EQ(packs, kForwardPolicies[i].max_packs);
    EXPECT_EQ(calls, 1);
  }
}

using Table = std::vector<LaunchPolicy>;

bool is_sound_with(auto change) {
  Table table{
      {        64,    Mapping::warp_per_row,  32, 2, 1, 128},
      {      1024,   Mapping::block_per_row, 256, 4, 1, 256},
      {      2048, Mapping::cluster_per_row, 256, 4, 2, 256},
      {kAnyLength,      Mapping::reread_row, 256, 4, 1, 256},
      {kAnyLength,       Mapping::split_row, 256, 4, 1, 256},
  };
  change(table);
  return is_sound(std::span<const LaunchPolicy>(table));
}

TEST(LaunchPolicy, UnsoundTablesAreSeen) {
  EXPECT_TRUE(is_sound_with([](Table&) {}));
  EXPECT_FALSE(is_sound_with([](Table& t) { t[0].max_packs = 63; }));
  EXPECT_FALSE(is_sound_with([](Table& t) { t[0].threads_per_block = 100; }));
  EXPECT_FALSE(is_sound_with([](Table& t) { t[0].threads_per_block = 2048; }));
  EXPECT_FALSE(is_sound_with([](Table& t) { t[0].threads_per_row = 24, t[0].max_packs = 48; }));
  EXPECT_FALSE(is_sound_with([](Table& t) { t[1].threads_per_row = 128, t[1].max_packs = 512; }));
  EXPECT_FALSE(is_sound_with([](Table& t) { t[2].blocks_per_row = 16, t[2].max_packs = 16384; }));
  EXPECT_FALSE(is_sound_with([](Table& t) { std::swap(t[0], t[1]); }));
  EXPECT_FALSE(is_sound_with([](Table& t) { t.pop_back(); }));
}

TEST(LaunchPolicy, TilesOfTwoSizesAreSeen) {
  EXPECT_FALSE(is_sound_with([](Table& t) { t[3].packs_per_thread = 2; }));
  EXPECT_FALSE(
      is_sound_with([](Table& t) { t[4].threads_per_block = t[4].threads_per_row = 512; }));
  EXPECT_FALSE(is_sound_with([](Table& t) {
    t[2].threads_per_block = t[2].threads_per_row = 512;
    t[2].max_packs = 4096;
  }));
}

}  // namespace
}  // namespace softmax_ext::cuda
