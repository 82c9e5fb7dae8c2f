// The stand-in for cub::BlockReduce: the order of CUB, and what it reports beyond it.

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "cub/block/block_reduce.cuh"
#include "cuda/simt.h"
#include "tests/simt/buffer.h"
#include "tests/simt/orders.h"
#include "tests/simt/reports.h"

namespace softmax_ext::simt {
namespace {

template <typename T, int threads>
using BlockReduce = cub::BlockReduce<T, threads, cub::BLOCK_REDUCE_WARP_REDUCTIONS>;

// Neither commutative nor associative in floating point: any other order gives another value.
struct Combine {
  float operator()(float a, float b) const { return a * 1.01f - b * 0.7f; }
};

template <int threads>
__global__ void combine(float* target, const float* source, int valid) {
  using Reduce = BlockReduce<float, threads>;
  auto& storage = shared<typename Reduce::TempStorage>();
  target[thread_index()] = Reduce(storage).Reduce(source[thread_index()], Combine{}, valid);
  sync_block();
  const float sum = Reduce(storage).Sum(source[thread_index()]);
  if (thread_index() == 0) target[threads] = sum;
}

// The lanes of a warp in step, as shuffles go.
float combined(const std::vector<float>& source, int valid) {
  float total = 0;
  for (int warp = 0; warp * 32 < valid; ++warp) {
    std::vector<float> lanes(
        source.begin() + warp * 32, source.begin() + std::min(warp * 32 + 32, valid));
    for (size_t offset = 1; offset < 32; offset *= 2) {
      const std::vector<float> before = lanes;
      for (size_t lane = 0; lane + offset < lanes.size(); ++lane)
        lanes[lane] = Combine{}(before[lane], before[lane + offset]);
    }
    total = warp == 0 ? lanes[0] : Combine{}(total, lanes[0]);
  }
  return total;
}

template <int threads>
void expect_order_of_cub(int valid) {
  std::vector<float> source(threads);
  for (int i = 0; i < threads; ++i) source[i] = std::sin(static_cast<float>(i));
  const auto values = in_every_order([&] {
    const Buffer<float> target(threads + 1);
    const Buffer<float> input(source);
    launch(
        combine<threads>,
        LaunchShape{1, threads, 1, nullptr},
        target.data(),
        static_cast<const float*>(input.data()),
        valid);
    return target.read();
  });
  EXPECT_EQ(values[0], combined(source, valid)) << threads << " threads, " << valid << " valid";
  for (int i = 1; i < threads; ++i) EXPECT_TRUE(std::isnan(values[i])) << "thread " << i;
  EXPECT_FALSE(std::isnan(values[threads]));
}

TEST(BlockReduce, CombinesAsCubAndGivesTheResultToTheFirstThreadOnly) {
  expect_order_of_cub<32>(32);
  expect_order_of_cub<96>(96);
  expect_order_of_cub<96>(64);
  expect_order_of_cub<96>(50);
  expect_order_of_cub<256>(1);
  expect_order_of_cub<48>(48);
}

TEST(BlockReduce, ReportsAnotherNumberOfThreads) {
  const Buffer<float> buffer(200);
  const auto run = [&](unsigned threads, int valid) {
    const float* source = buffer.data();
    launch(combine<64>, LaunchShape{1, threads, 1, nullptr}, buffer.data() + 100, source, valid);
  };
  EXPECT_TRUE(
      reports("another number of threads than the block's, at test_block", [&] { run(96, 64); }));
  EXPECT_TRUE(reports("no such number of threads", [&] { run(64, 65); }));
  EXPECT_TRUE(reports("no such number of threads", [&] { run(64, 0); }));
}

__global__ void reduce_twice(float* target, bool syncs, bool uses_two) {
  using Reduce = BlockReduce<float, 64>;
  auto& first = shared<Reduce::TempStorage>();
  auto& second = uses_two ? shared<Reduce::TempStorage, 1>() : first;
  const float sum = Reduce(first).Sum(1);
  if (syncs) sync_block();
  const float other = Reduce(second).Sum(2);
  if (thread_index() == 0) *target = sum + other;
}

TEST(BlockReduce, ReportsAStorageThatIsUsedAgainWithoutABarrier) {
  const Buffer<float> target(1);
  const auto run = [&](bool syncs, bool uses_two) {
    launch(reduce_twice, LaunchShape{2, 64, 2, nullptr}, target.data(), syncs, uses_two);
  };
  EXPECT_TRUE(
      reports("a TempStorage is used again without a sync_block", [&] { run(false, false); }));
  launch(reduce_twice, LaunchShape{1, 64, 1, nullptr}, target.data(), true, false);
  EXPECT_EQ(target.read()[0], 192);
  launch(reduce_twice, LaunchShape{1, 64, 1, nullptr}, target.data(), false, true);
  EXPECT_EQ(target.read()[0], 192);
}

__global__ void rely_on_the_barrier_inside(float* target) {
  using Reduce = BlockReduce<float, 64>;
  shared<float[64]>()[thread_index()] = 1;
  Reduce(shared<Reduce::TempStorage>()).Sum(1);
  target[thread_index()] = shared<float[64]>()[63 - thread_index()];
}

TEST(BlockReduce, OrdersNoMemory) {
  if (!has_race_checker()) GTEST_SKIP();
  const Buffer<float> target(64);
  EXPECT_TRUE(reports("data race on shared memory", [&] {
    launch(rely_on_the_barrier_inside, LaunchShape{1, 64, 1, nullptr}, target.data());
  }));
}

}  // namespace
}  // namespace softmax_ext::simt
