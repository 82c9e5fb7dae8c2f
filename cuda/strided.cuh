#pragma once
// A dim that is not last: neighbours in memory belong to neighbouring rows. Threads lie across the
// rows, where access is wide, and along the dim. Rows of up to along · kStridedHeld elements stay in
// registers; longer ones are read twice.

#include <algorithm>
#include <cstdint>

#include "cuda/launch.cuh"
#include "cuda/resident_row.cuh"

namespace softmax_ext::cuda {

inline constexpr int kStridedThreads = 256;  // of a block

// Elements of a row that a thread holds, of as many rows as a pack has elements.
template <int pack_elements>
inline constexpr int kStridedHeld = std::min(32 / pack_elements, 8);

// Of rows that are read twice, chunks whose sums are added before they meet the row's: few additions
// lie between an element and its sum, however long the row.
inline constexpr int kStridedFold = 64;

// Threads along the dim: few for rows of up to kStridedShort elements.
inline constexpr int kStridedShort = 32;
inline constexpr int kStridedAlong = 32;

// Where a thread stands, which takes `columns` adjacent rows.
template <int along_, int columns_>
struct StridedPlace {
  static constexpr int kAlong = along_;
  static constexpr int kColumns = columns_;
  static constexpr int kAcross = kStridedThreads / kAlong;

  int across = simt::thread_index() % kAcross;
  int along_index = simt::thread_index() / kAcross;
};

// What threads exchange in turn lies in one place, for the largest of it.
template <typename Largest, int columns>
struct ExchangeMemory {
  alignas(16) unsigned char bytes[kStridedThreads * columns * sizeof(Largest)];
};

// What `combine` makes of the values of all threads along the dim, pairwise, for each of a thread's
// `columns` rows.
template <typename Largest, typename Place, typename Value, typename Combine>
__device__ __forceinline__ void combine_along(
    const Place& place, Value (&values)[Place::kColumns], Combine combine) {
  constexpr int along = Place::kAlong;
  constexpr int columns = Place::kColumns;
  struct Exchange {
    Value at[along][columns][Place::kAcross];
  };
  auto& memory = simt::shared<ExchangeMemory<Largest, columns>>();
  static_assert(sizeof(Exchange) <= sizeof memory);
  auto& at = reinterpret_cast<Exchange&>(memory).at;
  SOFTMAX_EXT_UNROLL
  for (int c = 0; c < columns; ++c) at[place.along_index][c][place.across] = values[c];
  SOFTMAX_EXT_UNROLL
  for (int offset = along / 2; offset > 0; offset /= 2) {
    simt::sync_block();
    if (place.along_index >= offset) continue;
    SOFTMAX_EXT_UNROLL
    for (int c = 0; c < columns; ++c) {
      values[c] = combine(c, values[c], at[place.along_index + offset][c][place.across]);
      at[place.along_index][c][place.across] = values[c];
    }
  }
  simt::sync_block();
  SOFTMAX_EXT_UNROLL
  for (int c = 0; c < columns; ++c) values[c] = at[0][c][place.across];
  simt::sync_block();  // before the next values take the place
}

// The elements of `columns` adjacent rows that a thread holds: first, first + along, …
template <int along, int columns, typename Task>
struct StridedTile {
  using Operator = typename Task::Operator;
  using Lane = typename Operator::Output;
  using Summary = typename Task::Summary;
  using Sum = std::conditional_t<Task::kSumsDistances, DistanceSum<Lane>, TermSum<Lane>>;
  using Largest =
      std::conditional_t<(sizeof(Sum) > sizeof(Summary)), Sum, Summary>;  // that is combined
  static constexpr int kHeld = kStridedHeld<Task::kPackElements>;
  using Held = HeldPacks<Task, kHeld, columns>;
  using Kept = std::conditional_t<Task::kMasks, KeptColumns, AllColumns>;  // of each row
  using Terms = HeldTerms<Task, kHeld, columns>;
  static constexpr int64_t kLength = int64_t{along} * kHeld;

  // Of the rows' elements from `begin` on, which elements u threads have at all.
  __device__ __forceinline__ static bool is_beyond(int64_t begin, int u, int64_t length) {
    return begin + u * along >= length;
  }

  __device__ __forceinline__ static Held load(
      const Task& task,
      const RowPlace<Task>& rows,
      int64_t begin,
      int along_index,
      int64_t length,
      [[maybe_unused]] const Kept (&kept)[columns]) {
    Held held;
    SOFTMAX_EXT_UNROLL
    for (int u = 0; u < kHeld; ++u) {
      const int64_t j = begin + along_index + u * along;
      SOFTMAX_EXT_UNROLL
      for (int k = 0; k < Task::kInputs; ++k) {
        using Pack = Pack<typename Task::In, columns>;
        held.of_input[k][u] = Pack::filled_with(Task::padding());
        if (j < length)
          held.of_input[k][u] = load_pack<typename Task::In, columns>(
              rows.inputs[k] + j * task.inputs[k].length_stride);
      }
      if constexpr (Task::kMasks) {
        SOFTMAX_EXT_UNROLL
        for (int c = 0; c < columns; ++c)
          if (j < length && !kept[c](j)) held.of_input[0][u].set(c, Task::padding());
      }
    }
    return held;
  }

  // The maximum, and the sum of the terms, of the thread's elements of row c.
  __device__ __forceinline__ static Lane max(
      const Held& held, int c, int64_t begin, int64_t length) {
    Lane max = Operator::padding();
    SOFTMAX_EXT_UNROLL
    for (int u = 0; u < kHeld; ++u)
      if (!is_beyond(begin, u, length)) max = maximum(max, held.at(u, c));
    return max;
  }
  __device__ __forceinline__ static Sum sum(
      const Operator& op,
      const Held& held,
      int c,
      Lane max,
      int64_t begin,
      int64_t length,
      Terms& terms) {
    Sum total{};
    const auto add = [&](auto make_term) {
      SOFTMAX_EXT_UNROLL
      for (int u = 0; u < kHeld; ++u) {
        if (is_beyond(begin, u, length)) continue;
        const auto element = held.at(u, c);
        const Lane term = make_term(element);
        terms.of_pack[u][c] = term;
        bool is_left_out = false;
        if constexpr (Operator::kHasMax) is_left_out = Operator::kLeavesOutMaxima && element == max;
        if (is_left_out) total.maxima += 1;
        if (!is_left_out) total.sum += term;
        if constexpr (Task::kSumsDistances) total.distances += term * op.distance(element, max);
      }
    };
    if constexpr (Operator::kHasMax) {
      const auto exponential = op.template terms_from<0>(max);
      if (!exponential.is_usable())
        add([&](Lane logit) { return op.term(logit, max); });
      else if constexpr (Task::kMapsTerms)
        add([&](Lane logit) { return exponential.in_full(logit); });
      else
        add([&](Lane logit) { return exponential(logit); });
    } else {
      add([&](const auto& element) { return op.term(element); });
    }
    return total;
  }

  __device__ __forceinline__ static Summary summary_of(
      const Operator& op, Lane max, const Sum& total) {
    if constexpr (!Operator::kHasMax)
      return total.sum;
    else if constexpr (Task::kSumsDistances)
      return op.summary_of(max, total.sum, total.maxima, total.distances);
    else
      return op.summary_of(max, total.sum, total.maxima);
  }

  // The summaries of whole rows that the threads hold.
  __device__ __forceinline__ static void summarize(
      const Operator (&ops)[columns],
      const Held& held,
      const StridedPlace<along, columns>& place,
      int64_t length,
      Terms& terms,
      Summary (&summaries)[columns]) {
    Lane maxima[columns] = {};
    Sum sums[columns];
    if constexpr (Operator::kHasMax) {
      SOFTMAX_EXT_UNROLL
      for (int c = 0; c < columns; ++c) maxima[c] = max(held, c, 0, length);
      combine_along<Largest>(place, maxima, [](int, Lane a, Lane b) { return maximum(a, b); });
    }
    SOFTMAX_EXT_UNROLL
    for (int c = 0; c < columns; ++c) sums[c] = sum(ops[c], held, c, maxima[c], 0, length, terms);
    combine_along<Largest>(place, sums, [](int, auto a, auto b) { return AddTermSums()(a, b); });
    SOFTMAX_EXT_UNROLL
    for (int c = 0; c < columns; ++c) summaries[c] = summary_of(ops[c], maxima[c], sums[c]);
  }

  // Adds what a thread holds of longer rows to what it has seen of them.
  __device__ __forceinline__ static void add_chunk(
      const Operator (&ops)[columns],
      const Held& held,
      int64_t begin,
      int64_t length,
      Summary (&summaries)[columns]) {
    Terms terms;
    SOFTMAX_EXT_UNROLL
    for (int c = 0; c < columns; ++c) {
      if constexpr (Operator::kHasMax) {
        const Lane of_chunk = max(held, c, begin, length);
        const auto total = sum(ops[c], held, c, of_chunk, begin, length, terms);
        summaries[c] = ops[c].merge(summaries[c], summary_of(ops[c], of_chunk, total));
      } else {
        summaries[c] += sum(ops[c], held, c, Lane(0), begin, length, terms).sum;
      }
    }
  }
};

// Blocks at a time, as registers allow: what is known of each of 8 rows takes many.
template <typename Task>
inline constexpr int kStridedBlocks = [] {
  using Operator = typename Task::Operator;
  using Lane = typename Operator::Output;
  bool is_wide = sizeof(Lane) == 8;
  if constexpr (Task::kMasks || Task::kSumsDistances) is_wide = true;
  if constexpr (Task::kMapsTerms && sizeof(typename Task::In) == 2)
    is_wide |= sizeof(Operator) > sizeof(Lane) || Task::PerRow::kHasSpecialColumn;
  return is_wide ? 1 : 2;
}();

// `columns` adjacent rows per thread; they divide `inner`, and rows are numbered along it.
template <int along, int columns, typename Task>
__global__ void __launch_bounds__(kStridedThreads, kStridedBlocks<Task>)
    strided_kernel(const __grid_constant__ Task task, int64_t rows, int64_t length) {
  using Out = typename Task::Out;
  using Tile = StridedTile<along, columns, Task>;
  using PerRow = typename Task::PerRow;
  const StridedPlace<along, columns> place;
  constexpr int kRowsPerBlock = place.kAcross * columns;
  const bool is_held = Task::kReduces && length <= Tile::kLength;
  for (int64_t base = simt::block_index() * kRowsPerBlock; base < rows;
       base += simt::block_count() * kRowsPerBlock) {
    const int64_t mine = base + place.across * columns;
    const bool is_row = mine < rows;
    const int64_t row = is_row ? mine : base;
    const RowPlace<Task> memory(task, row);
    typename Task::Operator ops[columns];
    typename Task::Summary summaries[columns];
    typename Tile::Kept kept[columns];
    SOFTMAX_EXT_UNROLL
    for (int c = 0; c < columns; ++c) {
      if constexpr (Task::kMasks) kept[c] = task.per_row.mask[row + c];
      ops[c] = task.per_row.operator_of(row + c);
      summaries[c] = ops[c].empty();
    }
    const auto load = [&](int64_t begin) {
      return Tile::load(task, memory, begin, place.along_index, is_row ? length : 0, kept);
    };
    typename Tile::Held held;
    typename Tile::Terms terms;
    if constexpr (Task::kReduces) {
      if (is_held) {
        held = load(0);
        Tile::summarize(ops, held, place, length, terms, summaries);
      } else {
        for (int64_t fold = 0; fold < length; fold += kStridedFold * Tile::kLength) {
          const int64_t end = std::min(fold + kStridedFold * Tile::kLength, length);
          typename Task::Summary of_fold[columns];
          SOFTMAX_EXT_UNROLL
          for (int c = 0; c < columns; ++c) of_fold[c] = ops[c].empty();
          for (int64_t begin = fold; begin < end; begin += Tile::kLength) {
            held = load(begin);
            Tile::add_chunk(ops, held, begin, length, of_fold);
          }
          SOFTMAX_EXT_UNROLL
          for (int c = 0; c < columns; ++c) summaries[c] = ops[c].merge(summaries[c], of_fold[c]);
        }
        combine_along<typename Tile::Largest>(
            place, summaries, [&](int c, const auto& a, const auto& b) {
              return ops[c].merge(a, b);
            });
      }
      if (is_row && place.along_index == 0) {
        SOFTMAX_EXT_UNROLL
        for (int c = 0; c < columns; ++c) task.per_row.finish(row + c, ops[c], summaries[c]);
      }
    }
    if constexpr (Task::kMaps) {
      using Constants = decltype(task.per_row.constants(row, ops[0], summaries[0]));
      Constants constants[columns];
      SOFTMAX_EXT_UNROLL
      for (int c = 0; c < columns; ++c)
        constants[c] = task.per_row.constants(row + c, ops[c], summaries[c]);
      for (int64_t begin = 0; begin < length; begin += Tile::kLength) {
        if (!is_held) {
          held = load(begin);
          if constexpr (Task::kMapsTerms) {
            SOFTMAX_EXT_UNROLL
            for (int c = 0; c < columns; ++c)
              Tile::sum(ops[c], held, c, summaries[c].max, begin, length, terms);
          }
        }
        SOFTMAX_EXT_UNROLL
        for (int u = 0; u < Tile::kHeld; ++u) {
          const int64_t j = begin + place.along_index + u * along;
          if (!is_row || j >= length) continue;
          const auto mapped = Pack<Out, columns>::from_lanes([&](int c) {
            if constexpr (PerRow::kHasSpecialColumn)
              if (j == task.per_row.special_column(constants[c]))
                return task.per_row.special_output(constants[c]);
            if constexpr (Task::kMapsTerms)
              return task.per_row.map_term(ops[c], terms.of_pack[u][c], constants[c]);
            else
              return task.per_row.map(ops[c], held.at(u, c), constants[c]);
          });
          store_pack(memory.output + j * task.outputs.length_stride, mapped);
        }
      }
    }
  }
}

template <typename Task>
cudaError_t launch_strided(
    const Task& task, int64_t outer, int64_t length, int64_t inner, cudaStream_t stream) {
  constexpr int kPack = Task::kPackElements;
  // Whether packs of adjacent rows begin at multiples of 16 bytes.
  const auto is_packable = [](auto rows) {
    const int64_t element = sizeof(*rows.data);
    const bool is_adjacent = rows.offsets.strides[0] == 1 &&
                             (rows.offsets.dims == 1 || rows.offsets.sizes[0] % kPack == 0);
    rows.offsets.strides[0] = 0;  // the rows of a pack are less than that apart
    return is_adjacent && rows.is_aligned() && rows.length_stride * element % 16 == 0;
  };
  bool is_packed = inner % kPack == 0 && (!Task::kMaps || is_packable(task.outputs));
  for (const auto& input : task.inputs) is_packed = is_packed && is_packable(input);
  const int64_t rows = outer * inner;
  const auto launch = [&]<int along, int columns>() {
    using Place = StridedPlace<along, columns>;
    constexpr int kRowsPerBlock = Place::kAcross * columns;
    return launch_blocks<strided_kernel<along, columns, Task>>(
        {.blocks = (rows + kRowsPerBlock - 1) / kRowsPerBlock,
         .threads_per_block = kStridedThreads},
        stream,
        task,
        rows,
        length);
  };
  constexpr int kShort = kStridedShort / kStridedHeld<kPack>;
  if (length <= kStridedShort)
    return is_packed ? launch.template operator()<kShort, kPack>()
                     : launch.template operator()<kShort, 1>();
  return is_packed ? launch.template operator()<kStridedAlong, kPack>()
                   : launch.template operator()<kStridedAlong, 1>();
}

}  // namespace softmax_ext::cuda
