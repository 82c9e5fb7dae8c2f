#pragma once
// Draws from a row of contiguous logits without sorting it or writing probabilities. A row is worked
// on in chunks of fixed size, shared by threads unless the caller is one of several; nothing depends on
// how many there are.

#include <algorithm>
#include <cmath>
#include <vector>

#include "csrc/cpu/threshold_search.h"
#include "csrc/numerics/sampling.h"
#include "csrc/numerics/softmax_summary.h"

namespace softmax_ext::cpu {

template <typename Lane>
struct Draw {
  int64_t index;
  Lane log_prob;
};

// One object serves many rows, and keeps its memory.
template <typename T>
class RowSampler {
 public:
  using Lane = simd::LaneOf<T>;

  // Whether there is anything to draw: a finite logit and neither NaN nor +inf, and valid options.
  bool prepare(const T* logits, int64_t length, const SamplingOptions& options) {
    row_ = {logits, length};
    options_ = options;
    chunks_.resize(row_.chunks());
    threshold_ = -kLargest<Lane>;
    if (!options.is_valid()) return false;
    scale_ = static_cast<Lane>(options.scale);
    is_greedy_ = scale_ == kInfinity<Lane>;
    if (is_greedy_) scale_ = 1;
    const bool is_whole = scale_ > 0 && !is_greedy_ && !options.has_top_k(length) &&
                          !options.has_top_p() && !options.has_min_p();
    return is_whole ? summarize() : filter();
  }

  // Of the prepared row, for a number in [0, 1).
  Draw<Lane> draw(double uniform) const {
    CdfSearch search(is_greedy_ ? 0 : uniform * total_);
    for (int64_t chunk = 0; chunk < row_.chunks(); ++chunk)
      if (search.add(chunk, chunks_[chunk].weight)) break;
    const Chunk& chunk = chunks_[search.index()];
    const int64_t begin = row_.begin(search.index());
    const int64_t index = begin + table().pick(
                                      row_.logits + begin,
                                      row_.size(search.index()),
                                      chunk.base,
                                      scale_,
                                      threshold_,
                                      search.rest() / chunk.factor);
    if (is_greedy_) return {index, Lane(0)};
    const double distance = static_cast<double>(row_[index]) - static_cast<double>(max_);
    return {index, static_cast<Lane>(distance * static_cast<double>(scale_) - log_total_)};
  }

 private:
  // The kept part of one: its terms are measured from `base`, and its share of the row's total is
  // `weight`, `factor` times their sum.
  struct Chunk {
    Lane base;
    double factor;
    double weight;
  };

  LogitRow<T> row_;
  SamplingOptions options_;
  Lane scale_;
  bool is_greedy_;
  Lane threshold_;
  Lane max_;
  double total_;
  double log_total_;
  std::vector<Chunk> chunks_;
  ThresholdSearch<T> search_;

  static const simd::SamplingKernels<T>& table() { return of_type<T>(*kernels().sampling); }

  // Every logit is kept: one pass, in which each chunk has a maximum of its own.
  bool summarize() {
    using Summary = SoftmaxSummary<Lane, double>;
    std::vector<Summary> summaries(row_.chunks());
    row_.for_each_chunk([&](int64_t chunk) {
      summaries[chunk] = of_type<T>(*kernels().reduction)
                             .summarize(row_.logits + row_.begin(chunk), row_.size(chunk), scale_);
    });
    Summary row = summaries[0];
    for (int64_t chunk = 1; chunk < row_.chunks(); ++chunk)
      row = merge(row, summaries[chunk], scale_);
    if (row.is_undefined() || !(row.rest == row.rest)) return false;
    max_ = row.max;
    log_total_ = row.log_sum();
    total_ = 0;
    for (int64_t chunk = 0; chunk < row_.chunks(); ++chunk) {
      const Summary& summary = summaries[chunk];
      const double distance = static_cast<double>(summary.max) - static_cast<double>(max_);
      const double factor = std::exp(distance * static_cast<double>(scale_));
      chunks_[chunk] = {summary.max, factor, summary.sum() * factor};
      if (!(chunks_[chunk].weight > 0)) chunks_[chunk] = {summary.max, 1, 0};
      total_ += chunks_[chunk].weight;
    }
    return true;
  }

  // The maximum, then a threshold, then the terms of what is no smaller.
  bool filter() {
    max_ = search_.find_maximum(row_);
    if (!(max_ - max_ == 0)) return false;  // NaN or infinite
    // At T = ∞ all that is finite has the term 1, however far it is from the maximum.
    const Lane base = scale_ == 0 ? Lane(0) : max_;
    if (is_greedy_) {
      threshold_ = max_;
    } else {
      if (options_.has_top_k(row_.length))
        threshold_ = search_.of_count(threshold_, options_.top_k);
      if (options_.has_top_p()) {
        keep(base);
        const double need = needed_mass(options_.top_p, total_);
        threshold_ = search_.of_mass(threshold_, need, {base, scale_, total_});
      }
      if (options_.has_min_p())
        threshold_ =
            std::max(threshold_, min_p_threshold<Lane>(max_, options_.scale, options_.min_p));
    }
    keep(base);
    log_total_ = std::log(total_);
    return true;
  }

  void keep(Lane base) {
    row_.for_each_chunk([&](int64_t chunk) {
      double sum = 0;
      row_.for_each_block(chunk, [&](int64_t block, const T* logits, int64_t count) {
        if (search_.maximum_of(block) >= threshold_)
          sum += table().kept_sum(logits, count, base, scale_, threshold_);
      });
      chunks_[chunk] = {base, 1, sum};
    });
    total_ = 0;
    for (const Chunk& chunk : chunks_) total_ += chunk.weight;
  }
};

}  // namespace softmax_ext::cpu
