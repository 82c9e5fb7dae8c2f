#pragma once
// The maximum and log-sum of each row: what logsumexp and the cross-entropy loss are made of; and, for
// the entropy, the mean distance from the maximum.

#include "csrc/cpu/walk_rows.h"

namespace softmax_ext::cpu {

// Fills max[row], log_sum[row], log Σ exp((x − max) · scale), and with EntropyKernels
// mean_distance[row], and calls finish(row, count) for rows that are done. A row at a limit of the
// temperature is reduced after it.
template <template <typename> class Kernels, typename In, typename Lane, typename Finish>
void reduce_rows_by(
    const simd::ByType<Kernels>& tables,
    const Rows& rows,
    const TensorRows<const In>& in,
    const RowScale<Lane>& row_scales,
    Lane* max,
    Lane* log_sum,
    Lane* mean_distance,
    Finish finish) {
  using Summary = typename Kernels<Lane>::Summary;
  if (rows.count() == 0) return;
  const RowValues<Lane> scales = row_scales.values();
  const auto put = [&](int64_t row, const Summary& summary) {
    max[row] = summary.max;
    log_sum[row] = static_cast<Lane>(summary.log_sum());
    if constexpr (requires { summary.mean_distance(); })
      mean_distance[row] = static_cast<Lane>(summary.mean_distance());
    finish(row, 1);
  };
  const bool are_rows = in.has_rows(rows.length);
  if constexpr (std::is_same_v<simd::LaneOf<In>, Lane>) {
    const auto& table = of_type<In>(tables);
    if (row_scales.is_usual() && are_rows && rows.length > simd::kChunk) {
      const int64_t chunks = chunks_of(rows.length);
      const bool are_shared = rows.count() < at::get_num_threads();
      Summary* const shared = scratch<Summary>((are_shared ? rows.count() : 1) * chunks);
      const auto summaries = [&](int64_t row) {
        return are_shared ? shared + row * chunks : scratch<Summary>(chunks);
      };
      for_each_long_row(
          rows,
          [&](int64_t row, int64_t chunk, int64_t offset, int64_t count) {
            summaries(row)[chunk] = table.summarize(in[row] + offset, count, scales[row]);
          },
          [&](int64_t row) {
            const Summary* const of_chunks = summaries(row);
            Summary summary = of_chunks[0];
            for (int64_t chunk = 1; chunk < chunks; ++chunk)
              summary = merge(summary, of_chunks[chunk], scales[row]);
            put(row, summary);
          },
          [](auto...) {});
      return;
    }
    if (row_scales.is_usual() && rows.length > 0 && (are_rows || in.has_columns())) {
      for_each_range(rows, are_rows ? 1 : simd::kColumns, [&](int64_t begin, int64_t end) {
        for_each_run(
            begin,
            end,
            [&](int64_t row, int64_t count) {
              (are_rows ? table.rows : table.columns)(
                  {in[row],
                   are_rows ? in.offsets.strides[0] : in.length_stride,
                   count,
                   rows.length,
                   scales.from(row),
                   max + row,
                   log_sum + row,
                   mean_distance ? mean_distance + row : nullptr});
              finish(row, count);
            },
            in);
      });
      return;
    }
  }
  for_each_range(rows, 1, [&](int64_t begin, int64_t end) {
    Lane* const logits = scratch<Lane, 1>(rows.length);
    for (int64_t row = begin; row < end; ++row) {
      gather(in[row], in.length_stride, rows.length, logits);
      apply_limit(logits, rows.length, scales[row]);
      const Lane scale = usual_scale(scales[row]);
      Summary summary = Summary::empty();
      for (int64_t offset = 0; offset < rows.length; offset += simd::kChunk) {
        const auto chunk = of_type<Lane>(tables).summarize(
            logits + offset, std::min(simd::kChunk, rows.length - offset), scale);
        summary = offset == 0 ? chunk : merge(summary, chunk, scale);
      }
      put(row, summary);
    }
  });
}

template <typename In, typename Lane, typename Finish>
void reduce_rows(
    const Rows& rows,
    const TensorRows<const In>& in,
    const RowScale<Lane>& scales,
    Lane* max,
    Lane* log_sum,
    Finish finish) {
  reduce_rows_by(
      *kernels().reduction, rows, in, scales, max, log_sum, static_cast<Lane*>(nullptr), finish);
}

}  // namespace softmax_ext::cpu
