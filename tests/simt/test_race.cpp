// The race checker, in the build that has it.

#include <gtest/gtest.h>

#include <array>
#include <random>
#include <string>
#include <vector>

#include "cuda/simt.h"
#include "tests/simt/buffer.h"
#include "tests/simt/orders.h"
#include "tests/simt/reports.h"

namespace softmax_ext::simt {
namespace {

class Race : public testing::Test {
 protected:
  void SetUp() override {
    if (!has_race_checker()) GTEST_SKIP();
  }
};

// What a cluster of two blocks of two warps does with one word.
struct Step {
  enum Action { read, write, sync_warp, sync_block, sync_cluster } action;
  int thread;  // of 128 in the cluster, where one reads or writes
};
using Script = std::array<Step, 8>;

__global__ void play(Script script, uint16_t* word) {
  for (const Step& step : script) {
    const bool is_actor = cluster_rank() * 64 + thread_index() == step.thread;
    if (step.action == Step::sync_warp) sync_warp();
    if (step.action == Step::sync_block) sync_block();
    if (step.action == Step::sync_cluster) sync_cluster();
    if (step.action == Step::write && is_actor) *word = 1;
    if (step.action == Step::read && is_actor) [[maybe_unused]]
      const uint16_t value = *const_cast<volatile uint16_t*>(word);
  }
}

bool is_between(const Step& barrier, int a, int b) {
  return (barrier.action == Step::sync_warp && a / 32 == b / 32) ||
         (barrier.action == Step::sync_block && a / 64 == b / 64) ||
         barrier.action == Step::sync_cluster;
}

// Some two accesses, one of them a write, by two threads without a barrier of both between them.
bool has_race(const Script& script) {
  for (size_t i = 0; i < script.size(); ++i) {
    if (script[i].action > Step::write) continue;
    for (size_t j = i + 1; j < script.size(); ++j) {
      const bool is_conflict = script[j].action <= Step::write &&
                               script[i].thread != script[j].thread &&
                               (script[i].action == Step::write || script[j].action == Step::write);
      bool is_ordered = false;
      for (size_t k = i + 1; k < j; ++k)
        is_ordered |= is_between(script[k], script[i].thread, script[j].thread);
      if (is_conflict && !is_ordered) return true;
    }
  }
  return false;
}

Script random_script(std::mt19937& random) {
  // Two of each warp, so that all distances are common.
  constexpr int kThreads[] = {0, 5, 32, 40, 64, 70, 96, 127};
  constexpr Step::Action kActions[] = {
      Step::read,
      Step::read,
      Step::read,
      Step::write,
      Step::sync_warp,
      Step::sync_block,
      Step::sync_cluster};
  Script script;
  for (Step& step : script) step = {kActions[random() % 7], kThreads[random() % 8]};
  return script;
}

TEST_F(Race, IsReportedInEveryOrderIfAndOnlyIfThereIsOne) {
  std::mt19937 random(1);
  const Buffer<uint16_t> word(1);
  int races = 0;
  for (int i = 0; i < 150; ++i) {
    const Script script = random_script(random);
    options.order = static_cast<Order>(i % 3);
    std::string error;
    try {
      launch(play, LaunchShape{2, 64, 2, nullptr}, script, word.data());
    } catch (const Error& caught) {
      error = caught.what();
    }
    ASSERT_EQ(has_race(script), !error.empty()) << "script " << i << ": " << error;
    races += has_race(script);
  }
  options = {};
  EXPECT_GT(races, 30);
  EXPECT_LT(races, 120);
}

__global__ void exchange_through_shared(int* target, bool syncs) {
  int(&words)[32] = shared<int[32]>();
  words[thread_index()] = thread_index();
  shuffle_xor(0, 1);
  if (syncs) sync_warp();
  target[thread_index()] = words[31 - thread_index()];
}

TEST_F(Race, IsNotPreventedByAnExchangeBetweenLanes) {
  const Buffer<int> target(32);
  const auto run = [&](bool syncs) {
    launch(exchange_through_shared, LaunchShape{1, 32, 1, nullptr}, target.data(), syncs);
  };
  EXPECT_TRUE(reports(
      "data race on shared memory at byte 0: thread 0 of block 0 writes at test_race.cpp:[0-9]+.*, "
      "thread 31 of block 0 reads at test_race.cpp:[0-9]+.*, and nothing orders the two",
      [&] { run(false); }));
  run(true);
  EXPECT_EQ(target.read()[0], 31);
}

__global__ void write_the_same(int* target, int distance) {
  if (thread_index() == 0) target[block_index() * distance] = 1;
}

TEST_F(Race, OfTwoBlocksIsReportedEvenIfTheyWriteTheSame) {
  const Buffer<int> target(4);
  EXPECT_TRUE(reports("data race on global memory at byte 0: thread 0 of block 0 writes", [&] {
    launch(write_the_same, LaunchShape{2, 32, 1, nullptr}, target.data(), 0);
  }));
  launch(write_the_same, LaunchShape{2, 32, 1, nullptr}, target.data(), 1);
  launch(write_the_same, LaunchShape{2, 32, 1, nullptr}, target.data(), 1);  // launches are ordered
}

__global__ void read_peer_last(int* target, bool syncs_at_the_end) {
  shared<int>() = cluster_rank();
  sync_cluster();
  if (cluster_rank() == 0) *target = peer_shared(shared<int>(), 1);
  if (syncs_at_the_end) sync_cluster();
}

TEST_F(Race, OfAReadWithTheExitOfThePeerIsReportedInEveryOrder) {
  const Buffer<int> target(1);
  for (const Order order : {Order::forward, Order::reverse, Order::random}) {
    options.order = order;
    EXPECT_TRUE(reports(
        "peer block has exited|data race on shared memory at byte 0: thread 0 of block 0 reads at "
        ".*, "
        "thread 0 of block 1 exits, and nothing orders the two",
        [&] {
          launch(read_peer_last, LaunchShape{2, 1, 2, nullptr}, target.data(), false);
        }));
    launch(read_peer_last, LaunchShape{2, 1, 2, nullptr}, target.data(), true);
  }
  options = {};
}

struct alignas(16) Four {
  float elements[4];
};

__global__ void copy_fours(Four* target, const Four* source, int count) {
  for (int i = static_cast<int>(block_index()) * 32 + thread_index(); i < count;
       i += static_cast<int>(block_count()) * 32)
    target[i] = source[i];
}

TEST_F(Race, CheckerCountsTheBytesThatKernelsMove) {
  Buffer<Four> source(100);
  Buffer<Four> target(100);
  const Four* const input = source.data();
  for (int launches = 1; launches <= 2; ++launches) {
    launch(copy_fours, LaunchShape{3, 32, 1, nullptr}, target.data(), input, 100);
    EXPECT_EQ(source.traffic().read, launches * 1600);
    EXPECT_EQ(target.traffic().written, launches * 1600);
    EXPECT_EQ(source.traffic_of_last_launch().read, 1600);
    EXPECT_EQ(target.traffic_of_last_launch().written, 1600);
    EXPECT_EQ(source.traffic().written + target.traffic().read, 0);
  }
  source.reset_traffic();
  EXPECT_EQ(source.traffic().read, 0);
}

__global__ void read_before(float* target, const float* source) { *target = source[-1]; }

TEST_F(Race, CheckerReportsWhatLiesBeforeAShiftedBuffer) {
  const Buffer<float> buffer(4, 3);
  const Buffer<float> target(1);
  EXPECT_TRUE(reports("global memory at byte -4 is out of bounds: thread 0 of block 0 reads", [&] {
    const float* const source = buffer.data();
    launch(read_before, LaunchShape{1, 1, 1, nullptr}, target.data(), source);
  }));
}

}  // namespace
}  // namespace softmax_ext::simt
