#include <gtest/gtest.h>

#include <cstdint>
#include <set>
#include <span>
#include <vector>

#include "cuda/launch_policy.h"

namespace softmax_ext::cuda {
namespace {

constexpr LaunchConditions kUsual{
    .has_clusters = true,
    .keeps_rows = true,
    .reduces = true,
    .pack_words = 4,
    .row_count_splits = false};

constexpr LaunchConditions with(auto change) {
  LaunchConditions conditions = kUsual;
  change(conditions);
  return conditions;
}

Mapping chosen(int64_t packs, const LaunchConditions& conditions) {
  return kPolicies[choose_policy(packs, conditions)].mapping;
}

// The last bound of the rows that a block keeps.
int64_t longest_of_a_block() {
  int64_t packs = 0;
  for (const LaunchPolicy& policy : kPolicies)
    if (policy.mapping == Mapping::block_per_row) packs = policy.max_packs;
  return packs;
}

TEST(LaunchPolicy, EveryRowOfTheTableIsReachable) {
  std::set<std::size_t> reached{
      choose_policy(kAnyLength, kUsual),
      choose_policy(kAnyLength, with([](LaunchConditions& c) { c.row_count_splits = true; }))};
  for (const LaunchPolicy& policy : kPolicies)
    if (policy.max_packs != kAnyLength) reached.insert(choose_policy(policy.max_packs, kUsual));
  EXPECT_EQ(reached.size(), kPolicies.size());
}

TEST(LaunchPolicy, BoundsAreInclusive) {
  for (std::size_t i = 0; kPolicies[i].max_packs != kAnyLength; ++i) {
    EXPECT_EQ(choose_policy(kPolicies[i].max_packs, kUsual), i);
    EXPECT_EQ(choose_policy(kPolicies[i].max_packs + 1, kUsual), i + 1);
  }
}

TEST(LaunchPolicy, AChosenMappingHoldsTheRow) {
  for (int64_t packs = 1; packs < 20000; packs += packs < 300 ? 1 : 97) {
    const LaunchPolicy policy = kPolicies[choose_policy(packs, kUsual)];
    if (!holds_row(policy)) continue;
    EXPECT_GE(capacity_of(policy), packs);
  }
}

TEST(LaunchPolicy, WithoutClustersALongRowIsReadTwice) {
  const int64_t packs = longest_of_a_block() + 1;
  EXPECT_EQ(chosen(packs, kUsual), Mapping::cluster_per_row);
  EXPECT_EQ(
      chosen(packs, with([](LaunchConditions& c) { c.has_clusters = false; })),
      Mapping::reread_row);
}

TEST(LaunchPolicy, ARowThatIsNeededOnceTakesNeitherAClusterNorALargeBlock) {
  for (int64_t packs = 1; packs < 40000; packs = 2 * packs + 1) {
    const LaunchPolicy& policy =
        kPolicies[choose_policy(packs, with([](LaunchConditions& c) { c.keeps_rows = false; }))];
    EXPECT_NE(policy.mapping, Mapping::cluster_per_row);
    EXPECT_LE(policy.threads_per_block, 256);
  }
}

TEST(LaunchPolicy, AThreadOfALargeBlockHoldsNoMoreThanItsRegisters) {
  const int64_t packs = 4096;
  EXPECT_EQ(kPolicies[choose_policy(packs, kUsual)].threads_per_block, 512);
  const auto wide = with([](LaunchConditions& c) { c.pack_words = 16; });
  EXPECT_EQ(kPolicies[choose_policy(packs, wide)].mapping, Mapping::cluster_per_row);
}

TEST(LaunchPolicy, AClusterReadsAgainWhatItCannotHold) {
  const LaunchPolicy& longest = kPolicies[choose_policy(kMostClusterPacks, kUsual)];
  EXPECT_EQ(longest.mapping, Mapping::cluster_per_row);
  EXPECT_FALSE(holds_row(longest));
  EXPECT_EQ(chosen(kMostClusterPacks + 1, kUsual), Mapping::reread_row);
}

TEST(LaunchPolicy, AMapWithoutASummaryTakesTilesOfAnyLongRow) {
  for (const bool splits : {false, true})
    EXPECT_EQ(
        chosen(kAnyLength, with([=](LaunchConditions& c) {
                 c.reduces = c.keeps_rows = false;
                 c.row_count_splits = splits;
               })),
        Mapping::split_row);
}

// Only this may depend on the number of rows: the two have the same tiles.
TEST(LaunchPolicy, FewRowsAreSplitOnlyWhereTheyWouldBeReadTwice) {
  const auto few = with([](LaunchConditions& c) { c.row_count_splits = true; });
  for (const LaunchPolicy& policy : kPolicies) {
    const LaunchPolicy& many = kPolicies[choose_policy(policy.max_packs, kUsual)];
    const Mapping split = chosen(policy.max_packs, few);
    EXPECT_EQ(split, holds_row(many) ? many.mapping : Mapping::split_row);
  }
  EXPECT_TRUE(row_count_splits(131, 132));
  EXPECT_FALSE(row_count_splits(132, 132));
}

// Packs that nobody has cost little, but not nothing.
TEST(LaunchPolicy, NoRowUsesLessThanHalfOfWhatItsThreadsHold) {
  for (std::size_t i = 1; holds_row(kPolicies[i]); ++i)
    EXPECT_LE(kPolicies[i].max_packs, 2 * kPolicies[i - 1].max_packs);
}

TEST(LaunchPolicy, ASlabIsForShortRowsThatAreNoWholePacks) {
  EXPECT_TRUE(fits_slab(1, 8, 2));
  EXPECT_TRUE(fits_slab(31, 4, 4));
  EXPECT_FALSE(fits_slab(32, 4, 4));
  EXPECT_FALSE(fits_slab(33, 2, 8));
  EXPECT_TRUE(fits_slab(15, 8, 2));
  EXPECT_FALSE(fits_slab(17, 8, 2));
}

TEST(LaunchPolicy, ARowOfTheTableReachesTheBodyAsAType) {
  for (std::size_t i = 0; i < kPolicies.size(); ++i) {
    int calls = 0;
    const int64_t packs = with_policy<int64_t>(i, [&]<typename Policy>() {
      ++calls;
      EXPECT_EQ(Policy::Shape::kThreads, kPolicies[i].threads_per_block);
      EXPECT_EQ(Policy::Shape::kThreadsPerRow, kPolicies[i].threads_per_row);
      EXPECT_EQ(Policy::Shape::kPacks, kPolicies[i].packs_per_thread);
      return Policy::kValue.max_packs;
    });
    EXPECT_EQ(packs, kPolicies[i].max_packs);
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
