#pragma once
// The threshold of a filter of a row: the largest logit that, with all that are no smaller, has at
// least a given weight. It is bracketed, a pass over the row gathers what is in the bracket, and a radix
// search of that finds it. A small count is bracketed by the maxima of blocks: where k of them are ≥ v, so
// are k logits. Else a sorted sample does, which may miss; that costs a second pass.

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "csrc/cpu/levels.h"
#include "csrc/numerics/radix_select.h"

namespace softmax_ext::cpu {

// Elements of which the maximum is kept.
inline constexpr int64_t kBlock = 512;

// Contiguous logits, seen in chunks, of which threads take some, and in blocks.
template <typename T>
struct LogitRow {
  const T* logits;
  int64_t length;

  int64_t chunks() const { return (length + simd::kChunk - 1) / simd::kChunk; }
  static int64_t begin(int64_t chunk) { return chunk * simd::kChunk; }
  int64_t size(int64_t chunk) const { return std::min(simd::kChunk, length - begin(chunk)); }
  simd::LaneOf<T> operator[](int64_t i) const {
    return static_cast<simd::LaneOf<T>>(reinterpret_cast<const TorchElement<T>*>(logits)[i]);
  }
  static constexpr int64_t kBlocksPerChunk = simd::kChunk / kBlock;
  int64_t blocks() const { return (length + kBlock - 1) / kBlock; }
  // Of the blocks of a chunk: body(block, its logits, their number).
  template <typename Body>
  void for_each_block(int64_t chunk, Body body) const {
    const int64_t end = std::min((chunk + 1) * kBlocksPerChunk, blocks());
    for (int64_t block = chunk * kBlocksPerChunk; block < end; ++block) {
      const int64_t begin = block * kBlock;
      body(block, logits + begin, std::min(kBlock, length - begin));
    }
  }
  // By several threads, where the caller is not one of several.
  template <typename Body>
  void for_each_chunk(Body body) const {
    at::parallel_for(0, chunks(), 4, [&](int64_t begin, int64_t end) {
      for (int64_t chunk = begin; chunk < end; ++chunk) body(chunk);
    });
  }
};

// One object serves many rows, and keeps its memory.
template <typename T>
class ThresholdSearch {
 public:
  using Lane = simd::LaneOf<T>;

  // What the weights exp((x − base) · scale) are measured by, and their sum.
  struct Mass {
    Lane base;
    Lane scale;
    double total;
  };

  // Before the others. NaN if a logit is.
  Lane find_maximum(const LogitRow<T>& row) {
    row_ = row;
    maxima_.resize(row.blocks());
    row.for_each_chunk([&](int64_t chunk) {
      row.for_each_block(chunk, [&](int64_t block, const T* logits, int64_t count) {
        maxima_[block] = table<T>().maximum(logits, count);
      });
    });
    Lane max = maxima_[0];
    for (const Lane of_block : maxima_) max = max >= of_block || max != max ? max : of_block;
    return max;
  }
  Lane maximum_of(int64_t block) const { return maxima_[block]; }

  // The largest logit ≥ `floor` such that there are `need` that are no smaller; or that have the mass
  // `need`, more than 0, of those ≥ floor.
  Lane of_count(Lane floor, int64_t need) {
    weighs_ = false;
    mass_ = {Lane(0), Lane(1), static_cast<double>(row_.length)};
    return find(floor, static_cast<double>(need));
  }
  Lane of_mass(Lane floor, double need, const Mass& mass) {
    weighs_ = true;
    mass_ = mass;
    return find(floor, need);
  }

 private:
  static constexpr int kSample = 256;
  static constexpr int64_t kFew = 4096;  // which a radix search takes as they are
  static constexpr int64_t kSlack = 64;  // that gathering may write beyond its end

  // Where the threshold lies, and the weights of what is larger and of what is in it.
  struct Range {
    Lane low;
    Lane high;
    double above;
    double inside;
  };

  LogitRow<T> row_;
  std::vector<Lane> maxima_, of_blocks_;  // of blocks
  bool weighs_;
  Mass mass_;
  std::vector<Lane> gathered_, narrowed_, weights_;
  std::vector<simd::Gathered> of_chunks_;

  template <typename U>
  static const simd::SamplingKernels<U>& table() {
    return of_type<U>(*kernels().sampling);
  }

  template <typename U>
  simd::Gathered gather(const U* x, int64_t count, Lane low, Lane high, Lane* to) const {
    const auto& kernels = table<U>();
    return (weighs_ ? kernels.gather_weighed : kernels.gather_counted)(
        x, count, mass_.base, mass_.scale, low, high, to);
  }

  Lane find(Lane floor, double need) {
    Range range{floor, kInfinity<Lane>, 0, mass_.total};
    if (!weighs_ && need < static_cast<double>(maxima_.size())) {
      // So many blocks have a logit that is no smaller.
      of_blocks_ = maxima_;
      const auto place = of_blocks_.begin() + static_cast<int64_t>(need) - 1;
      std::nth_element(of_blocks_.begin(), place, of_blocks_.end(), std::greater<>());
      range.low = std::max(floor, *place);
    }
    int64_t count =
        range.low > floor
            ? gather_row(range.low, range.high).count
            : narrow(range, need, row_, [&](Lane low, Lane high) { return gather_row(low, high); });
    // Each round leaves a fraction, but for logits that are equal.
    for (int round = 0; round < 4 && count > kFew; ++round) {
      narrowed_.resize(gathered_.size());
      count = narrow(
          range, need, LogitRow<Lane>{gathered_.data(), count}, [&, count](Lane low, Lane high) {
            return gather(gathered_.data(), count, low, high, narrowed_.data());
          });
      std::swap(gathered_, narrowed_);
    }
    if (count == 0) return range.low;  // rounding has left nothing to choose from
    if (!weighs_) return radix_select<Lane>(gathered_.data(), nullptr, count, range.above, need);
    weights_.resize(count);
    table<Lane>().terms(gathered_.data(), count, mass_.base, mass_.scale, weights_.data());
    return radix_select(gathered_.data(), weights_.data(), count, range.above, need);
  }

  static void add(simd::Gathered& all, const simd::Gathered& part) {
    all.count += part.count;
    all.above += part.above;
    all.inside += part.inside;
  }

  simd::Gathered gather_row(Lane low, Lane high) {
    constexpr int64_t kStride = simd::kChunk + kSlack;
    gathered_.resize(std::max<size_t>(gathered_.size(), row_.chunks() * kStride));
    of_chunks_.resize(row_.chunks());
    row_.for_each_chunk([&](int64_t chunk) {
      simd::Gathered& all = of_chunks_[chunk];
      all = {0, 0, 0};
      Lane* const to = gathered_.data() + chunk * kStride;
      row_.for_each_block(chunk, [&](int64_t block, const T* logits, int64_t count) {
        if (maxima_[block] >= low) add(all, gather(logits, count, low, high, to + all.count));
      });
    });
    simd::Gathered all{0, 0, 0};
    for (int64_t chunk = 0; chunk < row_.chunks(); ++chunk) {
      const Lane* const from = gathered_.data() + chunk * kStride;
      std::copy(from, from + of_chunks_[chunk].count, gathered_.data() + all.count);
      add(all, of_chunks_[chunk]);
    }
    return all;
  }

  // Replaces the range by a smaller one, whose logits are gathered; returns how many those are.
  template <typename Source, typename Gather>
  int64_t narrow(Range& range, double need, const Source& source, Gather gather_range) {
    const auto [low, high] = bracket(range, need, source);
    simd::Gathered gathered = gather_range(low, high);
    const double reached = range.above + gathered.above;
    if (gathered.above > 0 && reached >= need) {
      gathered = gather_range(high, range.high);
      range = {high, range.high, range.above, gathered.inside};
    } else if (reached + gathered.inside < need && range.low < low) {
      gathered = gather_range(range.low, low);
      range = {range.low, low, range.above + gathered.above, gathered.inside};
    } else {
      range = {low, high, reached, gathered.inside};
    }
    return gathered.count;
  }

  // Where the threshold is likely to lie. What is small in the source is well known by a sample, what
  // is large may not be in it: the mass is taken from below.
  template <typename Source>
  std::pair<Lane, Lane> bracket(const Range& range, double need, const Source& source) const {
    if (source.length <= kFew) return {range.low, range.high};
    Lane sample[kSample], weights[kSample];
    int count = 0;
    for (int i = 0; i < kSample; ++i) {
      const Lane logit = source[source.length * i / kSample];
      if (range.low <= logit && logit < range.high) sample[count++] = logit;
    }
    std::sort(sample, sample + count, std::greater<>());
    if (weighs_)
      table<Lane>().terms(sample, count, mass_.base, mass_.scale, weights);
    else
      std::fill_n(weights, count, Lane(1));
    const double share = static_cast<double>(source.length) / kSample;
    double reached = range.above + range.inside;
    int place = count;  // the first of the sample that is no larger than the threshold
    while (place > 0 && reached - share * weights[place - 1] >= need)
      reached -= share * weights[--place];
    const double spread = std::sqrt(static_cast<double>(place) * (count - place) / (count + 1));
    const int margin = 3 + static_cast<int>(2 * spread);
    const Lane low = place + margin < count ? sample[place + margin] : range.low;
    const Lane high = place - margin >= 0 ? sample[place - margin] : range.high;
    // Among equal ones, those alone.
    return {low, low < high ? high : value_of_key<Lane>(ordered_key(low) + 1)};
  }
};

}  // namespace softmax_ext::cpu
