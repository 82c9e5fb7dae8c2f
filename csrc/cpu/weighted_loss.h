#pragma once
// The cross-entropy loss with options (csrc/losses.h) over the rows of tensors: block by block, so that a
// block's losses and, where they are wanted, its gradients are made while its logits are in the cache.
//
//   rows     contiguous rows, as many as a chunk has room for
//   columns  rows whose neighbours are contiguous
//   staged   any other strides, capped logits, and temperatures at a limit: row by row, in a copy

#include <algorithm>

#include "csrc/cpu/loss_rows.h"
#include "csrc/cpu/walk_rows.h"
#include "csrc/losses.h"
#include "csrc/numerics/cross_entropy.h"

namespace softmax_ext::cpu {

template <typename T>
class WeightedLossCall {
 public:
  using Lane = LaneOf<T>;
  using Element = KernelElement<T>;

  // `target`: int64 and contiguous, where a negative one is in no logit of its row; or probabilities in
  // the lanes' type. `max` and `log_sum` are of each row.
  WeightedLossCall(
      const Tensor& self,
      int64_t dim,
      const Tensor& target,
      const LossArguments& loss,
      Lane* max,
      Lane* log_sum)
      : rows_(Rows::of(self, dim)),
        logits_(RowView::of(self, dim)),
        in_(input_rows<T>(logits_)),
        scale_(loss.temperature, loss.scale, self, dim),
        ignore_index_(loss.ignore_index.expect_int()),
        softcap_(static_cast<Lane>(loss.softcap)),
        z_loss_(loss.z_loss),
        share_(1 - loss.label_smoothing),
        is_part_(loss.shard.has_value()),
        max_(max),
        log_sum_(log_sum) {
    if (loss.has_weight()) {
      weight_ = loss.weight->contiguous();
      weights_ = weight_.const_data_ptr<Lane>();
    }
    const double uniform =
        rows_.length == 0
            ? 0
            : loss.label_smoothing / static_cast<double>(loss.classes(rows_.length).expect_int());
    const bool are_classes = has_classes(target);
    of_classes_ = {static_cast<Lane>(are_classes ? 0 : share_), static_cast<Lane>(uniform)};
    if (are_classes) {
      classes_ = target.const_data_ptr<int64_t>();
      double sum = weights_ == nullptr ? static_cast<double>(rows_.length) : 0;
      if (weights_ != nullptr)
        for (int64_t j = 0; j < rows_.length; ++j) sum += weights_[j];
      spread_of_classes_ = uniform * sum;
    } else {
      probabilities_ = RowView::of(target, dim);
      targets_ = input_rows<Lane>(probabilities_);
    }
  }

  using Results = LossResults<Lane>;
  using Upstream = LossGradients<Lane>;

  // The losses and what backward needs of each row; and the gradients, where `out` is given, which may be
  // the logits themselves.
  void reduce(const Results& results) { walk(&results, nullptr, nullptr); }
  void reduce_with_gradient(
      const Results& results, const TensorRows<Element>& out, const Upstream& upstream) {
    walk(&results, &out, &upstream);
  }
  // The gradients from what reduce() left.
  void write_gradient(const TensorRows<Element>& out, const Upstream& upstream) {
    walk(nullptr, &out, &upstream);
  }

 private:
  using Row = WeightedLossRow<double>;
  using Summary = SoftmaxSummary<Lane, double>;
  enum class Layout { rows, columns, staged };

  Rows rows_;
  RowView logits_;
  TensorRows<const Element> in_;
  RowScale<Lane> scale_;
  int64_t ignore_index_;
  Lane softcap_;
  double z_loss_;
  double share_;  // of the target, 1 − e
  bool is_part_;  // rows are parts of rows, which may be −inf alone
  Lane* max_;
  Lane* log_sum_;
  Tensor weight_;
  const Lane* weights_ = nullptr;
  ClassWeights<Lane> of_classes_;
  const int64_t* classes_ = nullptr;  // or probabilities
  double spread_of_classes_ = 0;
  RowView probabilities_;
  TensorRows<const Lane> targets_{};

  // Where the rows of a block are, in the memory and the type that kernels take.
  template <typename In>
  struct Block {
    int64_t first;
    int64_t count;
    const In* in;
    int64_t in_stride;
    const Lane* targets;
    int64_t target_stride;
    In* out;  // or null
    int64_t out_stride;
    bool are_columns;

    int64_t step() const { return are_columns ? in_stride : 1; }
    const In* row(int64_t r) const { return in + r * (are_columns ? 1 : in_stride); }
  };

  template <typename In>
  static const auto& table() {
    return of_type<In>(*kernels().weighted_loss);
  }
  static bool is_usual(Lane scale) { return scale > 0 && scale < kInfinity<Lane>; }
  bool is_ignored(int64_t row) const {
    return classes_ != nullptr && classes_[row] == ignore_index_;
  }
  // Whether the class of the row is among the logits.
  bool has_class(int64_t row) const {
    return classes_ != nullptr && classes_[row] >= 0 && !is_ignored(row);
  }
  double weight_of(int64_t column) const { return weights_ == nullptr ? 1 : weights_[column]; }

  Layout layout(const TensorRows<Element>* out) const {
    if (softcap_ != 0 || !scale_.is_usual() || rows_.length == 0) return Layout::staged;
    const bool has_targets = classes_ == nullptr;
    if (in_.has_rows(rows_.length) && (!out || out->has_rows(rows_.length)) &&
        (!has_targets || targets_.has_rows(rows_.length)))
      return Layout::rows;
    if (in_.has_columns() && (!out || out->has_columns()) &&
        (!has_targets || targets_.has_columns()))
      return Layout::columns;
    return Layout::staged;
  }

  void walk(const Results* results, const TensorRows<Element>* out, const Upstream* upstream) {
    if (rows_.count() == 0) return;
    const Layout layout = this->layout(out);
    if (layout == Layout::staged) {
      for_each_range(rows_, 1, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row) visit_staged(row, results, out, upstream);
      });
      return;
    }
    const bool are_columns = layout == Layout::columns;
    const int64_t at_once =
        are_columns ? simd::kColumns : std::max<int64_t>(1, 2 * simd::kChunk / rows_.length);
    const auto stride = [&](const auto& rows) {
      return are_columns ? rows.length_stride : rows.offsets.strides[0];
    };
    for_each_range(rows_, are_columns ? simd::kColumns : 1, [&](int64_t begin, int64_t end) {
      const auto blocks = [&](int64_t first, int64_t count) {
        for (int64_t row = first; row < first + count; row += at_once)
          visit(
              Block<Element>{
                  row,
                  std::min(at_once, first + count - row),
                  in_[row],
                  stride(in_),
                  classes_ ? nullptr : targets_[row],
                  stride(targets_),
                  out ? (*out)[row] : nullptr,
                  out ? stride(*out) : 0,
                  are_columns},
              scale_.values().from(row),
              results,
              upstream);
      };
      TensorRows<const Element> written = in_;  // where there is no output, no further bound
      if (out) written.offsets = out->offsets;
      TensorRows<const Element> weighing = in_;
      if (!classes_) weighing.offsets = targets_.offsets;
      for_each_run(begin, end, blocks, in_, written, weighing);
    });
  }

  void visit_staged(
      int64_t row,
      const Results* results,
      const TensorRows<Element>* out,
      const Upstream* upstream) {
    const int64_t length = rows_.length;
    Lane* const logits = scratch<Lane, 1>(length);
    if (softcap_ != 0 && in_.has_rows(length)) {
      table<Element>().cap(in_[row], logits, length, softcap_);
    } else {
      gather(in_[row], in_.length_stride, length, logits);
      if (softcap_ != 0) table<Lane>().cap(logits, logits, length, softcap_);
    }
    const Lane scale = scale_.values()[row];
    const Lane max = apply_limit(logits, length, scale);
    // At T = 0 a maximum remains itself where another part of the row may have a larger one.
    if (is_part_ && scale == kInfinity<Lane> && max - max == 0)
      for (int64_t j = 0; j < length; ++j) logits[j] += max;
    const Lane* targets = nullptr;
    if (!classes_) {
      targets = targets_[row];
      if (!targets_.has_rows(length)) {
        Lane* const gathered = scratch<Lane, 2>(length);
        gather(targets_[row], targets_.length_stride, length, gathered);
        targets = gathered;
      }
    }
    const Lane usual = usual_scale(scale);
    visit(
        Block<Lane>{row, 1, logits, length, targets, length, out ? logits : nullptr, length, false},
        RowValues<Lane>{&usual, 0},
        results,
        upstream);
    if (out) scatter(logits, length, (*out)[row], out->length_stride);
  }

  template <typename In>
  void reduce_block(const Block<In>& block, RowValues<Lane> scale) {
    const auto& reduction = of_type<In>(*kernels().reduction);
    if (block.are_columns || (0 < rows_.length && rows_.length <= simd::kChunk)) {
      (block.are_columns ? reduction.columns : reduction.rows)(
          {block.in,
           block.in_stride,
           block.count,
           rows_.length,
           scale,
           max_ + block.first,
           log_sum_ + block.first});
    } else {
      for (int64_t r = 0; r < block.count; ++r) {
        Summary summary = Summary::empty();
        for (int64_t offset = 0; offset < rows_.length; offset += simd::kChunk) {
          const Summary chunk = reduction.summarize(
              block.row(r) + offset, std::min(simd::kChunk, rows_.length - offset), scale[r]);
          summary = offset == 0 ? chunk : merge(summary, chunk, scale[r]);
        }
        max_[block.first + r] = summary.max;
        log_sum_[block.first + r] = static_cast<Lane>(summary.log_sum());
      }
    }
  }

  template <typename In>
  void visit(
      const Block<In>& block,
      RowValues<Lane> scale,
      const Results* results,
      const Upstream* upstream) {
    if (results) reduce_block(block, scale);
    const bool has_spread = !of_classes_.are_zero();
    const simd::WeightedLogits<In> logits{
        block.in,
        block.in_stride,
        block.count,
        rows_.length,
        block.targets,
        block.target_stride,
        // Without smoothing they are the target's alone.
        classes_ && !has_spread ? nullptr : weights_,
        of_classes_,
        max_ + block.first};
    double* const distances = scratch<double, 3>(2 * block.count);
    double* const spreads = distances + block.count;
    if (has_spread && (results || !classes_))
      (block.are_columns ? table<In>().weigh_columns : table<In>().weigh_rows)(
          logits, results ? distances : nullptr, spreads);
    // Logits at a limit of the temperature are what it made of them, and do not move.
    const bool is_limit = softcap_ != 0 && !is_usual(scale_.values()[block.first]);
    const Lane softcap = is_limit ? Lane(0) : softcap_;
    Lane* const factors = scratch<Lane, 4>(3 * block.count);
    Lane* const shares = factors + block.count;
    Lane* const true_classes = shares + block.count;
    for (int64_t r = 0; r < block.count; ++r) {
      const int64_t row = block.first + r;
      const double spread = !has_spread ? 0 : classes_ ? spread_of_classes_ : spreads[r];
      Row values =
          row_of(block, r, double(scale[r]), spread, has_spread && results ? distances[r] : 0);
      if (results) put_results(row, values, *results);
      if (upstream) {
        const auto gradient = gradient_of(row, values, *upstream);
        factors[r] = static_cast<Lane>(gradient.factor);
        shares[r] = static_cast<Lane>(gradient.share);
        true_classes[r] = static_cast<Lane>(gradient.true_class);
        if (softcap != 0 && has_class(row)) {
          const double slope = target_logit(block, r) / double(softcap_);
          true_classes[r] *= static_cast<Lane>(1 - slope * slope);
        }
      }
    }
    if (!upstream) return;
    (block.are_columns ? table<In>().columns : table<In>().rows)({
        logits, block.out, block.out_stride, scale, {factors, 1},
            { shares, 1},
            softcap
    });
    if (!classes_) return;
    for (int64_t r = 0; r < block.count; ++r) put_others(block, r, true_classes[r]);
  }

  template <typename In>
  double target_logit(const Block<In>& block, int64_t r) const {
    const auto* const logits = reinterpret_cast<const TorchElement<In>*>(block.row(r));
    return static_cast<Lane>(logits[classes_[block.first + r] * block.step()]);
  }

  // `usual`: 1/T, but 1 for a row at a limit, whose logits are as they are after it.
  template <typename In>
  Row row_of(
      const Block<In>& block, int64_t r, double usual, double spread, double distance) const {
    const int64_t row = block.first + r;
    Row values{
        double(max_[row]),
        double(log_sum_[row]),
        double(scale_.values()[row]),
        spread,
        distance * usual,
        0,
        0};
    if (has_class(row)) {
      values.peak = share_ * weight_of(classes_[row]);
      values.target_distance = (target_logit(block, r) - values.max) * usual;
    }
    return values;
  }

  void put_results(int64_t row, Row& values, const Results& results) {
    const bool counts = !is_ignored(row);
    if (results.logsumexp)
      results.logsumexp[row] = counts ? static_cast<Lane>(values.logsumexp()) : Lane(0);
    if (SoftmaxSummary<double>{values.max, 0}.is_undefined()) values.log_sum = kNaN<double>;
    results.losses[row] = counts ? static_cast<Lane>(values.loss(z_loss_)) : Lane(0);
    max_[row] = counts ? max_[row] : Lane(0);
    if (results.weights)
      results.weights[row] = counts ? static_cast<Lane>(values.spread + values.peak) : Lane(0);
    if (!counts)
      log_sum_[row] = Lane(0);
    else if (!is_part_)
      log_sum_[row] = static_cast<Lane>(values.log_sum);
  }

  WeightedGradient<double> gradient_of(
      int64_t row, const Row& values, const Upstream& upstream) const {
    if (is_ignored(row)) return {0, 0, 0};
    const double grad = upstream.losses[row];
    return weighted_gradient<double>(
        values,
        gradient_scale(double(scale_.values()[row])),
        z_loss_,
        grad,
        upstream.logsumexp ? double(upstream.logsumexp[row]) : 0,
        has_class(row) ? weight_of(classes_[row]) * double(of_classes_.uniform) : 0);
  }

  // The true class, and rows that are ignored: 0, whatever their logits and their upstream gradient are.
  template <typename In>
  void put_others(const Block<In>& block, int64_t r, Lane true_class) const {
    const int64_t row = block.first + r;
    const int64_t step = block.are_columns ? block.out_stride : 1;
    auto* const dx = reinterpret_cast<TorchElement<In>*>(
        block.out + r * (block.are_columns ? 1 : block.out_stride));
    using Value = std::remove_pointer_t<decltype(dx)>;
    if (is_ignored(row))
      for (int64_t j = 0; j < rows_.length; ++j) dx[j * step] = Value(0);
    else if (has_class(row))
      dx[classes_[row] * step] = static_cast<Value>(true_class);
  }
};

}  // namespace softmax_ext::cpu
