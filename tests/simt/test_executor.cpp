// The executor itself: that kernels run as on a device, and that their mistakes are reported.

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <thread>
#include <vector>

#include "cuda/simt.h"
#include "tests/simt/buffer.h"
#include "tests/simt/orders.h"
#include "tests/simt/reports.h"

extern "C" __attribute__((weak)) void __asan_init();

namespace softmax_ext::simt {
namespace {

// Each test begins and ends with the usual options.
class Executor : public testing::Test {
 protected:
  ~Executor() override { options = {}; }

  template <typename... Parameters>
  static void launch_blocks(
      void (*kernel)(Parameters...), unsigned blocks, unsigned threads, Parameters... arguments) {
    ASSERT_EQ(launch(kernel, LaunchShape{blocks, threads, 1, nullptr}, arguments...), cudaSuccess);
  }
  template <typename... Parameters>
  static void launch_clusters(
      void (*kernel)(Parameters...),
      unsigned blocks,
      unsigned threads,
      unsigned blocks_per_cluster,
      Parameters... arguments) {
    const LaunchShape shape{blocks, threads, blocks_per_cluster, nullptr};
    ASSERT_EQ(launch(kernel, shape, arguments...), cudaSuccess);
  }
};
using Launch = Executor;
using Warp = Executor;
using Block = Executor;
using Cluster = Executor;
using Shared = Executor;
using Orders = Executor;
using Memory = Executor;

int64_t global_index() { return block_index() * 64 + thread_index(); }

__global__ void store_index(int64_t* target) {
  target[global_index()] = block_count() * 1000 + global_index();
}

TEST_F(Launch, RunsEachThreadOfEachBlock) {
  const auto values = in_every_order([] {
    const Buffer<int64_t> target(5 * 64);
    launch_blocks(store_index, 5, 64, target.data());
    return target.read();
  });
  for (size_t i = 0; i < values.size(); ++i) ASSERT_EQ(values[i], 5000 + static_cast<int64_t>(i));
}

__global__ void do_nothing() {}

cudaError_t try_launch(unsigned blocks, unsigned threads, unsigned blocks_per_cluster) {
  return launch(do_nothing, LaunchShape{blocks, threads, blocks_per_cluster, nullptr});
}

TEST_F(Launch, RefusesWhatADeviceRefuses) {
  options.edge = 1;
  EXPECT_EQ(try_launch(1, 1, 1), cudaSuccess);
  EXPECT_EQ(try_launch(0x7fffffff, 1, 1), cudaSuccess);
  EXPECT_EQ(try_launch(8, 1024, 8), cudaSuccess);
  EXPECT_EQ(try_launch(0, 1, 1), cudaErrorInvalidConfiguration);
  EXPECT_EQ(try_launch(0x80000000u, 1, 1), cudaErrorInvalidConfiguration);
  EXPECT_EQ(try_launch(1, 0, 1), cudaErrorInvalidConfiguration);
  EXPECT_EQ(try_launch(1, 1025, 1), cudaErrorInvalidConfiguration);
  EXPECT_EQ(try_launch(6, 32, 4), cudaErrorInvalidClusterSize);
  EXPECT_EQ(try_launch(9, 32, 9), cudaErrorInvalidClusterSize);
  EXPECT_EQ(try_launch(1, 32, 0), cudaErrorInvalidClusterSize);
  options.has_clusters = false;
  EXPECT_EQ(try_launch(2, 32, 2), cudaErrorInvalidClusterSize);
}

TEST_F(Launch, AsksTheOptionsAboutTheDevice) {
  int device = -1;
  int count = 0;
  bool has = false;
  EXPECT_EQ(current_device(&device), cudaSuccess);
  EXPECT_EQ(device, 0);
  EXPECT_EQ(largest_grid(), 6);
  multiprocessors(device, &count);
  EXPECT_EQ(count, 4);
  has_clusters(device, &has);
  EXPECT_TRUE(has);
  options = {.device = 70, .largest_grid = 9, .multiprocessors = 3, .has_clusters = false};
  current_device(&device);
  EXPECT_EQ(device, 70);
  EXPECT_EQ(largest_grid(), 9);
  multiprocessors(device, &count);
  EXPECT_EQ(count, 3);
  has_clusters(device, &has);
  EXPECT_FALSE(has);
}

TEST_F(Launch, OfTheEdgeRunsTheFirstAndTheLastClusters) {
  const Buffer<int64_t> target(20 * 64);
  options.edge = 2;
  launch_clusters(store_index, 20, 64, 2, target.data());
  const auto values = target.read();
  for (int64_t block = 0; block < 20; ++block)
    EXPECT_EQ(values[block * 64] != -1, block < 4 || block >= 16) << "block " << block;
}

__global__ void require_less(int bound) {
  require(thread_index() < bound, "too many threads");
  sync_block();
}

TEST_F(Launch, ReportsARequirementThatDoesNotHold) {
  launch_blocks(require_less, 1, 64, 64);
  EXPECT_TRUE(reports("thread 40 of block 0: too many threads, at test_executor.cpp:[0-9:]+$", [] {
    launch_blocks(require_less, 1, 64, 40);
  }));
}

TEST_F(Launch, WorksAfterALaunchThatFailed) {
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(reports("too many", [] { launch_blocks(require_less, 2, 64, 40); }));
    const Buffer<int64_t> target(2 * 64);
    launch_blocks(store_index, 2, 64, target.data());
    EXPECT_EQ(target.read()[127], 2127);
  }
}

TEST_F(Launch, WaitsForThatOfAnotherThread) {
  const Buffer<int64_t> first(64 * 64);
  const Buffer<int64_t> second(64 * 64);
  std::thread other([&] { launch_blocks(store_index, 64, 64, first.data()); });
  launch_blocks(store_index, 64, 64, second.data());
  other.join();
  EXPECT_EQ(first.read(), second.read());
}

__global__ void exchange_with(uint32_t* target, int offset) {
  target[thread_index()] = shuffle_xor(static_cast<uint32_t>(thread_index()) + 100, offset);
}

TEST_F(Warp, ShuffleXorYieldsTheWordOfThePartner) {
  for (const int offset : {0, 1, 5, 16, 31}) {
    const auto words = in_every_order([&] {
      const Buffer<uint32_t> target(64);
      launch_blocks(exchange_with, 1, 64, target.data(), offset);
      return target.read();
    });
    for (uint32_t i = 0; i < 64; ++i) ASSERT_EQ(words[i], (i ^ offset) + 100);
  }
}

TEST_F(Warp, ShuffleXorReportsAPartnerOutsideTheWarpOrTheBlock) {
  const Buffer<uint32_t> target(64);
  EXPECT_TRUE(reports(
      "thread 0 of block 0 takes the word of lane 32, which has exited or is not",
      [&] { launch_blocks(exchange_with, 1, 64, target.data(), 32); }));
  EXPECT_TRUE(reports("thread 32 of block 0 takes the word of lane 16", [&] {
    launch_blocks(exchange_with, 1, 48, target.data(), 16);
  }));
}

__global__ void exchange_after_exits(uint32_t* target, int first_to_exit) {
  if (thread_index() >= first_to_exit) return;
  target[thread_index()] = shuffle_xor(7, 1);
  sync_warp();
  sync_block();
  target[thread_index()] += 1;
}

TEST_F(Warp, WaitsForNoThreadThatHasExited) {
  const auto words = in_every_order([] {
    const Buffer<uint32_t> target(70);
    launch_blocks(exchange_after_exits, 1, 70, target.data(), 40);
    return target.read();
  });
  EXPECT_EQ(words[0], 8u);
  EXPECT_EQ(words[39], 8u);
  EXPECT_EQ(words[40], 0xffffffffu);
  const Buffer<uint32_t> target(70);
  EXPECT_TRUE(reports("takes the word of lane 7, which has exited", [&] {
    launch_blocks(exchange_after_exits, 1, 70, target.data(), 39);
  }));
  launch_blocks(exchange_after_exits, 1, 70, target.data(), 40);  // the executor has recovered
}

__global__ void exchange_at_two_places(uint32_t* target) {
  if (thread_index() < 10)
    target[thread_index()] = shuffle_xor(1, 1);
  else
    target[thread_index()] = shuffle_xor(1, 1);
}

TEST_F(Warp, ReportsBothPlacesOfADivergentExchange) {
  const Buffer<uint32_t> target(32);
  const std::string call = "wait in shuffle_xor of lanes 0xffffffff at test_executor.cpp:[0-9:]+";
  EXPECT_TRUE(reports(
      "deadlock:\n  10 threads, the first of them thread 0 of block 0, " + call +
          "\n  22 threads, the first of them thread 10 of block 0, " + call + "$",
      [&] { launch_blocks(exchange_at_two_places, 1, 32, target.data()); }));
}

// With masks, which cuda/simt.h does not offer yet.
uint32_t exchange_in(uint32_t mask, uint32_t word, int source_lane) {
  return executor::wait_in(
      {executor::of_warp, false, "exchange", Where::current(), word, source_lane, mask});
}

__global__ void exchange_in_halves(uint32_t* target) {
  const int lane = thread_index();
  const uint32_t mask = lane < 16 ? 0xffffu : 0xffff0000u;
  uint32_t word = lane;
  for (int round = 0; round < (lane < 16 ? 2 : 5); ++round)
    word = exchange_in(mask, word, lane ^ 1) + 1;
  target[lane] = word;
}

TEST_F(Warp, HalvesWithMasksOfTheirOwnDoNotWaitForEachOther) {
  const auto words = in_every_order([] {
    const Buffer<uint32_t> target(32);
    launch_blocks(exchange_in_halves, 1, 32, target.data());
    return target.read();
  });
  EXPECT_EQ(words[3], 3u + 2);
  EXPECT_EQ(words[20], 21u + 5);
}

__global__ void exchange_in_two_masks() {
  exchange_in(thread_index() < 16 ? 0xffffffffu : 0xffff0000u, 0, 16);
}
__global__ void exchange_outside_the_mask() { exchange_in(0xfu, 0, 0); }

TEST_F(Warp, ReportsMasksThatDiffer) {
  EXPECT_TRUE(reports("is not in the mask of its exchange of lanes 0x0000000f", [] {
    options.order = Order::reverse;
    launch_blocks(exchange_outside_the_mask, 1, 32);
  }));
  EXPECT_TRUE(reports("thread 0 of block 0 takes the word of lane 16, which has exited", [] {
    options.order = Order::forward;
    launch_blocks(exchange_in_two_masks, 1, 32);
  }));
}

__global__ void reverse_block(int* target) {
  int(&words)[64] = shared<int[64]>();
  for (int round = 0; round < 3; ++round) {
    words[thread_index()] = thread_index() + round;
    sync_block();
    target[thread_index()] = words[63 - thread_index()];
    sync_block();
  }
}

TEST_F(Block, SyncBlockWaitsForAllThreads) {
  const auto words = in_every_order([] {
    const Buffer<int> target(64);
    launch_blocks(reverse_block, 1, 64, target.data());
    return target.read();
  });
  for (int i = 0; i < 64; ++i) EXPECT_EQ(words[i], 63 - i + 2);
}

__global__ void wait_at_two_places() {
  if (thread_index() < 32)
    sync_block();
  else
    sync_block();
}

__global__ void wait_at_two_places_of_a_line() {
  thread_index() < 32 ? sync_block() : sync_block();
}

TEST_F(Block, ReportsBothPlacesOfADivergentBarrier) {
  const std::string call = "wait in sync_block at test_executor.cpp:[0-9:]+";
  const std::string report = "deadlock:\n  32 threads, the first of them thread 0 of block 0, " +
                             call + "\n  32 threads, the first of them thread 32 of block 0, " +
                             call + "$";
  EXPECT_TRUE(reports(report, [] { launch_blocks(wait_at_two_places, 1, 64); }));
  EXPECT_TRUE(reports(report, [] { launch_blocks(wait_at_two_places_of_a_line, 1, 64); }));
}

__global__ void wait_for_different_things() {
  if (thread_index() % 2)
    sync_block();
  else
    sync_warp();
}

TEST_F(Block, ReportsAllPlacesOfADeadlock) {
  EXPECT_TRUE(reports(
      "deadlock:\n  16 threads, the first of them thread 1 of block 0, wait in sync_block at .*\n"
      "  16 threads, the first of them thread 0 of block 0, wait in sync_warp of lanes",
      [] { launch_blocks(wait_for_different_things, 1, 32); }));
}

__global__ void read_peers(int* target, bool syncs_at_the_end, int distance) {
  int(&words)[64] = shared<int[64]>();
  words[thread_index()] = static_cast<int>(global_index());
  sync_cluster();
  const int peer = (cluster_rank() + distance) % 4;
  target[global_index()] = peer_shared(words[63 - thread_index()], peer);
  if (syncs_at_the_end) sync_cluster();
}

TEST_F(Cluster, ReadsTheSharedMemoryOfPeers) {
  const auto words = in_every_order([] {
    const Buffer<int> target(8 * 64);
    launch_clusters(read_peers, 8, 64, 4, target.data(), true, 1);
    return target.read();
  });
  for (int i = 0; i < 8 * 64; ++i) {
    const int block = i / 64;
    ASSERT_EQ(words[i], (block / 4 * 4 + (block + 1) % 4) * 64 + 63 - i % 64);
  }
}

TEST_F(Cluster, ReportsAPeerThatHasExited) {
  const Buffer<int> target(4 * 64);
  EXPECT_TRUE(reports(
      "the peer block has exited, at test_executor|of block [0-3] exits, and nothing orders",
      [&] { launch_clusters(read_peers, 4, 64, 4, target.data(), false, 1); }));
  EXPECT_TRUE(reports("there is no peer block of that rank", [&] {
    launch_clusters(read_peers, 2, 64, 2, target.data(), true, 3);
  }));
}

__global__ void read_peer_that_has_exited(int* target) {
  shared<int>() = cluster_rank();
  sync_cluster();
  const int& word = peer_shared(shared<int>(), 1 - cluster_rank());
  sync_cluster();
  if (cluster_rank() == 0) *target = word;
}

TEST_F(Cluster, ReportsAReadOfAPeerThatHasExited) {
  const Buffer<int> target(1);
  const auto run = [&] { launch_clusters(read_peer_that_has_exited, 2, 1, 2, target.data()); };
  options.order = Order::reverse;
  if (has_race_checker())
    EXPECT_TRUE(
        reports("shared memory at byte 0 is of a block that has exited: thread 0 .*0", run));
  else if (__asan_init)
    EXPECT_DEATH(run(), "use-after-poison.*test_executor.cpp");
}

__global__ void read_peer_of_a_local() {
  int local = 0;
  peer_shared(local, 0);
}

TEST_F(Cluster, ReportsAPeerOfWhatIsNotShared) {
  EXPECT_TRUE(
      reports("this is no shared memory", [] { launch_blocks(read_peer_of_a_local, 1, 1); }));
}

__global__ void tell_shared_apart(int* target) {
  shared<int>() = 1;
  shared<int, 1>() = 2;
  shared<float>() = 3;
  target[0] = shared<int>() + 10 * shared<int, 1>() + 100 * static_cast<int>(shared<float>());
}

TEST_F(Shared, ObjectsAreToldApartByTypeAndTag) {
  const Buffer<int> target(1);
  launch_blocks(tell_shared_apart, 1, 1, target.data());
  EXPECT_EQ(target.read()[0], 321);
}

__global__ void read_unwritten(float* target) {
  target[block_index()] = shared<float>();
  shared<float>() = 1;
}

TEST_F(Shared, HasNoValueAtFirstInAnyBlock) {
  const Buffer<float> target(std::vector<float>{0, 0});
  const auto run = [&] { launch_blocks(read_unwritten, 2, 1, target.data()); };
  if (has_race_checker()) {
    EXPECT_TRUE(reports("shared memory at byte 0 is read but was never written: thread 0", run));
  } else {
    run();
    EXPECT_TRUE(std::isnan(target.read()[0]) && std::isnan(target.read()[1]));
  }
}

template <int bytes>
__global__ void use_shared() {
  shared<char[bytes]>()[0] = 0;
  shared<double>() = 0;
}

TEST_F(Shared, HasAsMuchAsPtxasAllows) {
  launch_blocks(use_shared<(48 << 10) - 8>, 1, 1);
  EXPECT_TRUE(reports("has 49153 bytes of shared memory, more than 49152", [] {
    launch_blocks(use_shared<(48 << 10) - 7>, 1, 1);
  }));
}

__global__ void store_vectors(uint4* target, int rank_of_shared) {
  uint4(&words)[2] = shared<uint4[2]>();
  store_vector(cluster_rank() == rank_of_shared ? &words[1] : target + block_index(), {1, 2, 3, 4});
}

TEST_F(Shared, IsNoTargetOfStoreVector) {
  const Buffer<uint4> target(2);
  const auto run = [&](int rank) { launch_clusters(store_vectors, 2, 1, 2, target.data(), rank); };
  run(-1);
  EXPECT_EQ(target.read()[1].w, 4u);
  EXPECT_TRUE(reports(
      "thread 0 of block 0: the target of a store_vector is shared memory, at test_executor.cpp",
      [&] { run(0); }));
  EXPECT_TRUE(reports("thread 0 of block 1: the target of a store_vector", [&] { run(1); }));
}

std::vector<int> visited;

__attribute__((no_sanitize("thread"), noinline)) void visit() { visited.push_back(thread_index()); }

__global__ void visit_twice() {
  visit();
  sync_warp();
  visit();
}

std::vector<int> visits(Options chosen, unsigned threads = 64) {
  options = chosen;
  visited.clear();
  launch(visit_twice, LaunchShape{1, threads, 1, nullptr});
  return visited;
}

TEST_F(Orders, ARunningWarpRunsAsFarAsItCan) {
  std::vector<int> expected;
  for (const int warp : {0, 1})
    for (int round = 0; round < 2; ++round)
      for (int lane = 0; lane < 32; ++lane)
        expected.push_back(warp * 32 + (lane + round * 31) % 32);
  // The last lane completes the warp's barrier, and goes on.
  EXPECT_EQ(visits({.order = Order::forward}), expected);
}

TEST_F(Orders, ReverseBeginsWithTheLastLaneOfTheLastWarp) {
  const auto order = visits({.order = Order::reverse});
  EXPECT_EQ(order[0], 63);
  EXPECT_EQ(order[31], 32);
  EXPECT_EQ(order[64], 31);
}

TEST_F(Orders, RandomIsGivenByTheSeed) {
  const auto order = visits({.order = Order::random, .seed = 3});
  EXPECT_EQ(visits({.order = Order::random, .seed = 3}), order);
  EXPECT_NE(visits({.order = Order::random, .seed = 4}), order);
  EXPECT_EQ(std::accumulate(order.begin(), order.end(), 0), 2 * (63 * 64 / 2));
}

__global__ void take_the_last_writer(int* target) {
  shared<int>() = thread_index();
  sync_block();
  target[0] = shared<int>();
}

TEST_F(Orders, AResultThatDependsOnThemIsReported) {
  EXPECT_TRUE(reports("depends on the order of threads|data race", [] {
    in_every_order([] {
      const Buffer<int> target(1);
      launch_blocks(take_the_last_writer, 1, 64, target.data());
      return target.read();
    });
  }));
}

TEST_F(Memory, OfABufferIsShiftedAndHasNoValueAtFirst) {
  Buffer<float> buffer(10, 3);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % 256, 12u);
  EXPECT_TRUE(std::isnan(buffer.read()[9]));
  buffer.write({1, 2}, 8);
  EXPECT_EQ(buffer.read(8, 2), (std::vector<float>{1, 2}));
}

__global__ void mark_ends(uint16_t* words, int64_t words_per_block) {
  words[block_index() * words_per_block + thread_index()] = 1;
}

TEST_F(Memory, BeyondTwoToThe32ElementsCostsWhatIsTouched) {
  const int64_t words_per_block = int64_t{1} << 20;
  const Buffer<uint16_t> buffer(8192 * words_per_block);
  options.edge = 1;
  launch_blocks(mark_ends, 8192, 32, buffer.data(), words_per_block);
  EXPECT_EQ(buffer.read(8191 * words_per_block + 31, 2), (std::vector<uint16_t>{1, 0}));
}

}  // namespace
}  // namespace softmax_ext::simt
