// Which shape of launch is fastest for rows of which length:
//
//   nvcc -std=c++20 --expt-relaxed-constexpr -O3 -I. -arch=sm_90 -DTYPE=float -DPASS=1 -DPART=1
//     benchmarks/gpu/launch_shapes.cu -o launch_shapes && ./launch_shapes
//
//   TYPE   float or __nv_bfloat16
//   PASS   1: softmax forward, 2: its backward, 3: logsumexp
//   PART   1: rows of 1 to 512 packs, 2: of 513 to 32,768, 3: rows that are read twice,
//          4: rows not of whole packs, and dims that are not last
//
// Prints CSV: pass, type (with * where rows are not of whole packs), length, mapping, threads per
// block, threads per row, packs per thread, blocks per row, waves (0: a block per share of work),
// resident blocks, GB/s, fraction of a copy.

#include "benchmarks/gpu/launch_shapes.cuh"

using namespace softmax_ext::cuda;
using namespace softmax_ext::cuda::tuning;

#if PASS == 1
using Task = SoftmaxTask<TYPE>;
constexpr const char* kPass = "forward";
#elif PASS == 2
using Task = BackwardTask<TYPE>;
constexpr const char* kPass = "backward";
#elif PASS == 3
using Task = ReduceTask<TYPE>;
constexpr const char* kPass = "reduce";
#else
#error "PASS is 1, 2 or 3"
#endif

constexpr int kPack = kVectorElements<TYPE>;

// Rows of these many packs.
std::vector<int64_t> packs(std::initializer_list<int64_t> counts) {
  std::vector<int64_t> lengths;
  for (const int64_t count : counts) lengths.push_back(count * kPack);
  return lengths;
}
std::vector<int64_t> odd(std::initializer_list<int64_t> counts) {
  std::vector<int64_t> lengths;
  for (const int64_t count : counts) lengths.push_back(count * kPack - kPack + 1);
  return lengths;
}

int main() {
  [[maybe_unused]] const Tuner<true, Task> tune{kPass, sizeof(TYPE) == 4 ? "float32" : "bfloat16"};
  [[maybe_unused]] const Tuner<false, Task> any{
      kPass, sizeof(TYPE) == 4 ? "float32*" : "bfloat16*"};
#if PART == 1
  tune.warp<128, 1, 1>(packs({1}));
  tune.warp<128, 2, 1>(packs({2}));
  tune.warp<128, 2, 2>(packs({2, 3, 4}));
  tune.warp<128, 4, 1>(packs({2, 3, 4}));
  tune.warp<128, 4, 2>(packs({5, 8}));
  tune.warp<128, 8, 1>(packs({5, 8}));
  tune.warp<128, 2, 4>(packs({5, 8}));
  tune.warp<128, 4, 4>(packs({5, 8, 9, 12, 16}));
  tune.warp<128, 8, 2>(packs({9, 12, 16}));
  tune.warp<128, 16, 2>(packs({17, 24, 32}));
  tune.warp<128, 8, 4>(packs({12, 17, 24, 32}));
  tune.warp<128, 32, 2>(packs({33, 48, 64}));
  tune.warp<128, 16, 4>(packs({24, 33, 48, 64}));
  tune.block<64, 2>(packs({65, 96, 128}));
  tune.warp<128, 32, 4>(packs({65, 96, 128}));
  tune.warp<128, 32, 8>(packs({129, 192, 256}));
  tune.block<64, 4>(packs({129, 192, 256}));
  tune.block<128, 2>(packs({129, 192, 256}));
  tune.block<64, 8>(packs({257, 384, 512}));
  tune.block<128, 4>(packs({257, 384, 512}));
#elif PART == 2
  tune.block<128, 8>(packs({513, 768, 1024}));
  tune.block<256, 4>(packs({513, 768, 1024}));
  tune.block<512, 2>(packs({513, 768, 1024}));
  tune.block<256, 8>(packs({1025, 1536, 2048}));
  tune.block<512, 4>(packs({1025, 1536, 2048}));
  tune.block<1024, 4>(packs({2049, 3072, 4096}));
  tune.block<512, 8>(packs({2049, 3072, 4096}));
  tune.block<1024, 4>(packs({1536, 2048}));
  tune.block<1024, 8>(packs({4096, 6144, 8192}));
  tune.cluster<1024, 4>(packs({6144, 8192}), 2);
  tune.cluster<1024, 4>(packs({12288, 16384}), 4);
  tune.cluster<512, 2>(packs({1536, 2048}), 2);
  tune.cluster<512, 2>(packs({3072, 4096}), 4);
  tune.cluster<512, 2>(packs({6144, 8192}), 8);
  tune.cluster<256, 4>(packs({3072, 4096}), 4);
  tune.cluster<256, 4>(packs({6144, 8192}), 8);
  tune.cluster<512, 4>(packs({3072, 4096}), 2);
  tune.cluster<512, 4>(packs({6144, 8192}), 4);
  tune.cluster<512, 4>(packs({8193, 12288, 16384}), 8);
  tune.cluster<256, 8>(packs({3072, 4096}), 2);
  tune.cluster<256, 8>(packs({6144, 8192}), 4);
  tune.cluster<256, 8>(packs({8193, 12288, 16384}), 8);
  tune.cluster<512, 8>(packs({8192}), 2);
  tune.cluster<512, 8>(packs({16384}), 4);
  tune.cluster<512, 8>(packs({16385, 24576, 32768}), 8);
#elif PART == 3
  tune.reread<256, 4>(packs({2048, 4096, 8192, 16384, 32768, 65536, 131072}));
  tune.reread<512, 4>(packs({2048, 4096, 8192, 16384, 32768, 65536, 131072}));
  tune.reread<512, 8>(packs({4096, 8192, 16384, 32768, 65536, 131072}));
  tune.reread<1024, 4>(packs({4096, 8192, 16384, 32768, 65536, 131072}));
  tune.reread<256, 8>(packs({4096, 8192, 16384, 32768, 65536, 131072}));
#if PASS != 3
  tune.cluster<256, 8>(packs({16384, 32768, 65536, 131072}), 8);
  tune.cluster<512, 4>(packs({16384, 32768, 65536, 131072}), 8);
  tune.cluster<512, 8>(packs({32768, 65536, 131072}), 8);
  tune.cluster<1024, 4>(packs({32768, 65536, 131072}), 8);
#endif
#elif PART == 4
#if PASS != 3
  any.slab({2, 3, 5, 7, 10, 15, 17, 31});
  any.strided({
      {  21,  4096},
      {  81,  8732},
      {3072,  1024},
      {1000,  1024},
      { 128, 16384},
      { 128,    64},
      {  64,   196},
      {   8,  4096}
  });
#endif
  any.warp<128, 8, 2>(odd({9, 12, 15}));
  any.warp<128, 4, 4>(odd({9, 12, 15}));
  any.warp<128, 16, 2>(odd({17, 24, 31}));
  any.warp<128, 8, 4>(odd({17, 24, 31}));
  any.warp<128, 16, 4>(odd({33, 48, 63}));
  any.warp<128, 32, 2>(odd({33, 48, 63}));
  any.warp<128, 32, 4>(odd({65, 96, 127}));
  any.block<64, 2>(odd({65, 96, 127}));
  any.block<64, 4>(odd({129, 192, 255}));
  any.block<128, 2>(odd({129, 192, 255}));
  any.warp<128, 32, 8>(odd({129, 192, 255}));
  any.block<128, 4>(odd({257, 384, 511}));
  any.block<256, 2>(odd({257, 384, 511}));
  any.block<256, 4>(odd({513, 768, 1023}));
  any.block<512, 4>(odd({1025, 1536, 2047}));
  any.block<256, 8>(odd({1025, 1536, 2047}));
  any.block<1024, 4>(odd({3072, 4095}));
#if PASS != 3
  any.cluster<512, 4>(odd({3072, 4095}), 2);
  any.cluster<512, 4>(odd({6282, 8191}), 4);
  any.cluster<512, 4>(odd({12564, 16383}), 8);
#endif
  any.reread<512, 4>(odd({6282, 12564, 16383, 32768}));
#else
#error "PART is 1, 2, 3 or 4"
#endif
}
