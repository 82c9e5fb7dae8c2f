// The checks check: each planted bug is reported, in the builds that must see it.

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "tests/simt/buffer.h"
#include "tests/simt/orders.h"
#include "tests/simt/planted/kernels.cuh"
#include "tests/simt/reports.h"

extern "C" __attribute__((weak)) void __asan_init();

namespace softmax_ext::simt::planted {
namespace {

void expect_sums(const std::vector<float>& sums, const std::vector<float>& rows, int length) {
  for (size_t row = 0; row < sums.size(); ++row) {
    const auto begin = rows.begin() + static_cast<int64_t>(row) * length;
    if (sums[row] != std::accumulate(begin, begin + length, 0.f))
      throw Error("wrong value of row " + std::to_string(row));
  }
}

std::vector<float> whole_numbers(size_t count) {
  std::vector<float> values(count);
  for (size_t i = 0; i < count; ++i) values[i] = static_cast<float>(i * 7 % 31);
  return values;
}

// Launches `kernel` over rows in every order, and checks their sums.
template <typename... Rest>
void run_sums(
    void (*kernel)(float*, const float*, Rest...),
    LaunchShape shape,
    size_t row_count,
    int length,
    Rest... rest) {
  const auto rows = whole_numbers(row_count * length);
  const auto sums = in_every_order([&] {
    const Buffer<float> source(rows);
    const Buffer<float> target(row_count);
    const float* const input = source.data();
    launch(kernel, shape, target.data(), input, rest...);
    return target.read();
  });
  expect_sums(sums, rows, length);
}

template <Bug bug>
void run_sum_rows() {
  run_sums<int64_t, int>(sum_rows<bug>, {3, kThreads, 1, nullptr}, 7, 50, 7, 50);
}
template <Bug bug>
void run_sum_packs() {
  run_sums<int64_t>(sum_packs<bug>, {1, 32, 1, nullptr}, 9, 4, 9);
}
template <Bug bug>
void run_sum_rows_in_halves() {
  run_sums<>(sum_rows_in_halves<bug>, {6, kWarpLanes, 2, nullptr}, 3, 2 * kWarpLanes);
}

// Beyond 2³¹ elements, of which the last row's are 1.
template <Bug bug>
void run_sum_many_rows() {
  constexpr int kLength = 64;
  constexpr int64_t kRows = (int64_t{1} << 31) / kLength + 2;
  Buffer<uint16_t> rows(kRows * kLength);
  const Buffer<float> sum(1);
  rows.write(std::vector<uint16_t>(kLength, 1), (kRows - 1) * kLength);
  options.edge = 1;
  const uint16_t* const input = rows.data();
  const LaunchShape shape{kRows, kWarpLanes, 1, nullptr};
  launch(sum_many_rows<bug>, shape, sum.data(), input, kLength);
  options = {};
  if (sum.read()[0] != kWarpLanes) throw Error("wrong value");
}

template <Bug bug>
void run_divide_by_sum() {
  const auto rows = whole_numbers(2 * kThreads);
  const auto parts = in_every_order([&] {
    const Buffer<float> source(rows);
    const Buffer<float> target(rows.size());
    const float* const input = source.data();
    launch(divide_by_sum<bug>, LaunchShape{2, kThreads, 1, nullptr}, target.data(), input);
    return target.read();
  });
  for (const float part : parts)
    if (std::isnan(part)) throw Error("wrong value: NaN");
}

template <Bug bug>
void run_reverse_packs() {
  std::vector<uint4> rows(2 * kThreads);
  for (unsigned i = 0; i < rows.size(); ++i) rows[i] = {i, i + 1, i + 2, i + 3};
  const auto packs = in_every_order([&] {
    const Buffer<uint4> source(rows);
    const Buffer<uint4> target(rows.size());
    const uint4* const input = source.data();
    launch(reverse_packs<bug>, LaunchShape{2, kThreads, 1, nullptr}, target.data(), input);
    return target.read();
  });
  for (size_t i = 0; i < rows.size(); ++i)
    if (packs[i ^ (kThreads - 1)].w != rows[i].w) throw Error("wrong value");
}

enum Builds { plain = 1, asan = 2, race = 4, all = 7 };
Builds this_build() { return has_race_checker() ? race : __asan_init ? asan : plain; }

struct Planted {
  const char* name;
  void (*run)();
  int builds;
  const char* report;
};
void PrintTo(const Planted& planted, std::ostream* stream) { *stream << planted.name; }

constexpr auto kDependsOnOrder = "result depends on the order of threads";
constexpr auto kTwoBarriers =
    "deadlock:(\n  32 threads, the first of them thread (0|32) of block 0, wait in sync_block at "
    "kernels.cuh:[0-9:]+){2}$";
constexpr auto kOverflow = "heap-buffer-overflow.*kernels.cuh";

// By sanitizers, which end the process.
const Planted kFatal[] = {
    { "RowPastTheEnd",run_sum_rows<Bug::row_past_the_end>,asan,                                                                           kOverflow                                                            },
    {"TailPastTheRow", run_sum_rows<Bug::tail_past_the_row>, asan,                                                                           kOverflow},
    {"SharedOverflow",
     run_sum_rows<Bug::shared_overflow>,
     asan, "kernels.cuh:[0-9:]+ runtime error: index 2 out of bounds for type 'float \\[2\\]'"                                                        },
    {"MisalignedPack",
     run_sum_packs<Bug::misaligned_pack>,
     asan,                     "kernels.cuh:[0-9:]+ runtime error: [a-z ]* misaligned address"                                                        },
    {   "IntOverflow",
     run_sum_many_rows<Bug::int_overflow>,
     asan,       "kernels.cuh:[0-9:]+ runtime error: signed integer overflow: 33554433 \\* 64"                                                        },
};

// By the executor.
const Planted kReported[] = {
    {       "LanesLeaveAShuffle",
     run_sum_rows<Bug::lanes_leave_a_shuffle>,
     all,"deadlock:.*wait in shuffle_xor of lanes 0xffffffff at kernels.cuh:.*wait in sync_block"                                                                                 },
    {        "WarpSkipsABarrier", run_sum_rows<Bug::warp_skips_a_barrier>,   all,                                                                                  kTwoBarriers},
    {          "BarriersDiverge",     run_sum_rows<Bug::barriers_diverge>,   all,                                                                                  kTwoBarriers},
    {      "RequirementViolated",
     run_sum_rows<Bug::requirement_violated>,
     all,                                     "thread 0 of block 0: rows are too long, at kernels.cuh:"                                                                        },
    {   "NoBarrierBeforeTheRead",
     run_sum_rows<Bug::no_barrier_before_the_read>,
     plain | asan,
     kDependsOnOrder                                                                                                                                                           },
    {   "NoBarrierBeforeTheRead",
     run_sum_rows<Bug::no_barrier_before_the_read>,
     race, "shared memory at byte 4 is read but was never written: thread 0 of block 0 reads at kernels"                                                                       },
    {"NoBarrierBeforeTheRewrite",
     run_sum_rows<Bug::no_barrier_before_the_rewrite>,
     plain | asan,
     kDependsOnOrder                                                                                                                                                           },
    {"NoBarrierBeforeTheRewrite",
     run_sum_rows<Bug::no_barrier_before_the_rewrite>,
     race,              "data race on shared memory at byte 4: thread .* (reads|writes) at kernels.cuh:"                                                                       },
    {               "TwoWriters",
     run_sum_rows<Bug::two_writers>,
     race,                                                                  "data race on global memory at byte 0: thread .* writes at kernels.cuh:[0-9]+, thread .* "
                                                                  "writes at kernels.cuh:"                                                                           },
    {           "TailPastTheRow",    run_sum_rows<Bug::tail_past_the_row>, plain,                                                                        "wrong value of row 0"},
    {         "NoClusterBarrier",
     run_sum_rows_in_halves<Bug::no_cluster_barrier>,
     plain | asan,
     kDependsOnOrder                                                                                                                                                           },
    {         "NoClusterBarrier",
     run_sum_rows_in_halves<Bug::no_cluster_barrier>,
     race, "shared memory at byte 0 is read but was never written: thread 0 of block 0 reads at kernels"                                                                       },
    {     "NoLastClusterBarrier",
     run_sum_rows_in_halves<Bug::no_last_cluster_barrier>,
     all,             "the peer block has exited, at kernels.cuh:|of block 1 exits, and nothing orders"                                                                        },
    {         "StorageUsedAgain",
     run_divide_by_sum<Bug::storage_used_again>,
     all,  "a TempStorage is used again without a sync_block\\(\\) since its last use, at kernels.cuh:"                                                                        },
    {    "ResultOfAnotherThread",
     run_divide_by_sum<Bug::result_of_another_thread>,
     all,                                                                            "wrong value: NaN"                                                                        },
    {      "VectorStoreToShared",
     run_reverse_packs<Bug::vector_store_to_shared>,
     all,                              "the target of a store_vector is shared memory, at kernels.cuh:"                                                                        },
};

template <size_t count>
std::vector<Planted> of_this_build(const Planted (&table)[count]) {
  std::vector<Planted> chosen;
  for (const Planted& planted : table)
    if (planted.builds & this_build()) chosen.push_back(planted);
  return chosen;
}

std::string name_of(const testing::TestParamInfo<Planted>& info) { return info.param.name; }

class Reported : public testing::TestWithParam<Planted> {};

TEST_P(Reported, AsAnError) { EXPECT_TRUE(reports(GetParam().report, GetParam().run)); }
INSTANTIATE_TEST_SUITE_P(Planted, Reported, testing::ValuesIn(of_this_build(kReported)), name_of);

class Fatal : public testing::TestWithParam<Planted> {};
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(Fatal);

TEST_P(Fatal, EndsTheProcess) { EXPECT_DEATH(GetParam().run(), GetParam().report); }
INSTANTIATE_TEST_SUITE_P(Planted, Fatal, testing::ValuesIn(of_this_build(kFatal)), name_of);

TEST(Planted, KernelsAreRightWithoutABug) {
  run_sum_rows<Bug::none>();
  run_sum_packs<Bug::none>();
  run_sum_many_rows<Bug::none>();
  run_sum_rows_in_halves<Bug::none>();
  run_divide_by_sum<Bug::none>();
  run_reverse_packs<Bug::none>();
}

}  // namespace
}  // namespace softmax_ext::simt::planted
