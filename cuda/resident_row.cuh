#pragma once
// The part of a row that a team of threads keeps in registers, from its load to its store. Memory is
// read and written once. Every mapping of threads along a row is made of these functions.
//
// Thread t of `threads` holds the packs t, t + threads, … of the part:
//
//   packs:   | 0        | 1        | … | n        | n+1      | …        (n threads)
//   held by: | thread 0 | thread 1 | … | thread 0 | thread 1 | …
//
// Packs begin at multiples of 16 bytes of the output. Where an odd length shifts the rows, the first
// pack begins `shift` columns before the part, the last ends behind it, and both move element by
// element: nothing outside the part is touched.

#include <cstdint>

#include "cuda/merge.cuh"
#include "cuda/row_task.cuh"

namespace softmax_ext::cuda {

constexpr int64_t packs_of_row(int64_t length, int pack_elements) {
  return (length + pack_elements - 1) / pack_elements;
}

// How many columns before a part's first one its packs begin.
template <bool is_aligned, typename Task>
__device__ __forceinline__ int shift_of(const RowPlace<Task>& place) {
  if constexpr (is_aligned) return 0;
  using In = typename Task::In;
  constexpr int kPack = Task::kPackElements;
  const int of_input =
      static_cast<int>(reinterpret_cast<std::uintptr_t>(place.inputs[0]) / sizeof(In) % kPack);
  if constexpr (!Task::kMaps) return of_input;
  constexpr int kOutVector = kVectorElements<typename Task::Out>;
  const int of_output = misalignment(place.output);
  // Of the shifts that align the output, one that aligns the input too, if there is one.
  return of_input % kOutVector == of_output ? of_input : of_output;
}

// Columns [begin, end) of a row, as a team holds them.
template <typename Index>
struct Part {
  Index begin;
  Index end;
  int shift;

  __device__ __forceinline__ Index first_column() const { return begin - shift; }
  __device__ __forceinline__ bool has_whole(Index column, int pack) const {
    return begin <= column && column + pack <= end;
  }
  // Of the last pack.
  template <int pack>
  __device__ __forceinline__ int last_pack() const {
    return static_cast<int>((end - 1 - first_column()) / pack);
  }
  template <int pack>
  __device__ __forceinline__ bool ends_in_pack() const {
    return (end - first_column()) % pack != 0;
  }
};

// A shifted part of `packs` packs per thread has one pack more, which thread 0 holds.
template <int packs, bool is_aligned>
inline constexpr int kHeldPacks = packs + (is_aligned ? 0 : 1);

// From how many words on, of a row and its terms, a thread of 256 needs more than 128 registers.
// ptxas takes more of them for 16-bit elements before sm_80 and from sm_100 on, and columns of 64
// bits take some of their own.
template <typename In, typename Lane, typename Index>
inline constexpr int kWideWords = [] {
#if defined(__CUDA_ARCH__)
  if (sizeof(In) == 2 && __CUDA_ARCH__ < 800) return 36;
  if (sizeof(In) == 2 && __CUDA_ARCH__ >= 1000) return 64;
#endif
  return sizeof(Lane) == 8 ? 33 : sizeof(Index) == 8 ? 65 : 97;
}();

// The second launch bound of a kernel. Without one ptxas aims at 64 registers in some instances and
// spills; with one that is too high it spills too.
template <typename Shape, bool is_aligned, typename Task, typename Index = int>
inline constexpr int kBlocksPerMultiprocessor = [] {
  using In = typename Task::In;
  using Lane = typename Task::Operator::Output;
  constexpr int kElements = kHeldPacks<Shape::kPacks, is_aligned> * Task::kPackElements;
  constexpr int kHeldWords = Task::kInputs * kElements * sizeof(In) / 4;
  constexpr int kTermWords = Task::kMapsTerms ? kElements * sizeof(Lane) / 4 : 0;
  constexpr bool kIsWide = kHeldWords + kTermWords >= kWideWords<In, Lane, Index>;
  return Shape::kThreads > 256 || (Shape::kThreads == 256 && kIsWide) ? 1 : 2;
}();

// Whether no thread of the team has a pack i: what is left out then costs all of them nothing.
template <int threads, int pack, typename Index>
__device__ __forceinline__ bool is_beyond(const Part<Index>& part, int i) {
  return part.first_column() + static_cast<Index>(i) * threads * pack >= part.end;
}

// Calls body(i, column) for the packs at the two ends of a part that are not whole, by the thread
// that holds them.
template <int threads, int packs, int pack, typename Index, typename Body>
__device__ __forceinline__ void for_each_broken_pack(
    const Part<Index>& part, int thread, Body body) {
  if (part.begin >= part.end) return;
  const int last = part.template last_pack<pack>();
  if (part.shift != 0 && thread == 0) body(0, part.first_column());
  if (part.template ends_in_pack<pack>() && (last != 0 || part.shift == 0) &&
      last % threads == thread)
    body(last / threads, part.first_column() + static_cast<Index>(last) * pack);
}

template <int threads, int packs, bool is_aligned, typename Task, typename Index>
__device__ __forceinline__ HeldPacks<Task, kHeldPacks<packs, is_aligned>> load_part(
    const RowPlace<Task>& place, const Part<Index>& part, int thread) {
  using In = typename Task::In;
  constexpr int kPack = Task::kPackElements;
  constexpr int kHeld = kHeldPacks<packs, is_aligned>;
  HeldPacks<Task, kHeld> held;
  const auto column_of = [&](int i) {
    return part.first_column() + static_cast<Index>(i * threads + thread) * kPack;
  };
  SOFTMAX_EXT_UNROLL
  for (int k = 0; k < Task::kInputs; ++k) {
    const In* const row = place.inputs[k];
    const In* const mine = row + column_of(0);
    if (!is_aligned && misalignment(row + part.first_column()) != 0) {
      SOFTMAX_EXT_UNROLL
      for (int i = 0; i < kHeld; ++i)
        held.of_input[k][i] =
            load_elements<kPack>(row, column_of(i), part.begin, part.end, Task::padding());
      continue;
    }
    // All at once: a branch between them would have the next one wait for the last.
    SOFTMAX_EXT_UNROLL
    for (int i = 0; i < kHeld; ++i) {
      held.of_input[k][i] = Pack<In, kPack>::filled_with(Task::padding());
      const Index column = column_of(i);
      if (is_aligned ? column < part.end : part.has_whole(column, kPack))
        held.of_input[k][i] = load_pack<In, kPack>(mine + i * threads * kPack);
    }
    if constexpr (!is_aligned)
      for_each_broken_pack<threads, packs, kPack>(part, thread, [&](int broken, Index column) {
        const auto pack = load_elements<kPack>(row, column, part.begin, part.end, Task::padding());
        SOFTMAX_EXT_UNROLL
        for (int i = 0; i < kHeld; ++i)
          if (i == broken) held.of_input[k][i] = pack;
      });
  }
  return held;
}

// Terms of a part, kept for the map.
template <typename Task, int packs, int pack_elements = Task::kPackElements>
struct HeldTerms {
  typename Task::Operator::Output of_pack[packs][pack_elements];
};

// Calls body(element, term, e), with room for the element's term, for every held element e.
template <typename Task, int packs, int pack, typename Body>
__device__ __forceinline__ void for_each_element(
    const HeldPacks<Task, packs, pack>& held, HeldTerms<Task, packs, pack>& terms, Body body) {
  SOFTMAX_EXT_UNROLL
  for (int i = 0; i < packs; ++i) {
    SOFTMAX_EXT_UNROLL
    for (int j = 0; j < pack; ++j) body(held.at(i, j), terms.of_pack[i][j], i * pack + j);
  }
}

// Makes the term of every element, measured from `max` and times 2^kTermOffset, and calls
// add(element, term, e).
template <
    int threads,
    typename Task,
    typename Index,
    int packs,
    int pack,
    typename Lane,
    typename Add>
__device__ __forceinline__ void make_terms(
    const typename Task::Operator& op,
    const HeldPacks<Task, packs, pack>& held,
    const Part<Index>& part,
    Lane max,
    HeldTerms<Task, packs, pack>& terms,
    Add add) {
  const auto make = [&](auto term_of) {
    SOFTMAX_EXT_UNROLL
    for (int i = 0; i < packs; ++i) {
      // Else the terms of a skipped pack are alive, for ptxas, since the last row, in registers of
      // their own beside those of the elements.
      SOFTMAX_EXT_UNROLL
      for (Lane& term : terms.of_pack[i]) term = 0;
      if (is_beyond<threads, pack>(part, i)) continue;
      SOFTMAX_EXT_UNROLL
      for (int j = 0; j < pack; ++j) {
        const Lane logit = held.at(i, j);
        terms.of_pack[i][j] = term_of(logit);
        add(logit, terms.of_pack[i][j], i * pack + j);
      }
    }
  };
  const auto exponential = op.template terms_from<Task::kTermOffset>(max);
  if (!exponential.is_usable())
    make([&](Lane logit) { return op.term(logit, max) * Task::kTermUnit; });
  else if constexpr (Task::kTermsInFull)
    make([&](Lane logit) { return exponential.in_full(logit); });
  else
    make([&](Lane logit) { return exponential(logit); });
}

template <typename Task, typename Team, typename Index, int packs, int pack>
__device__ __forceinline__ typename Task::Operator::Output max_of_part(
    const HeldPacks<Task, packs, pack>& held,
    const Part<Index>& part,
    Team& team,
    HeldTerms<Task, packs, pack>& terms) {
  using Lane = typename Task::Operator::Output;
  Lane max = Task::Operator::padding();
  for_each_element(held, terms, [&](Lane logit, Lane&, int) { max = maximum(max, logit); });
  return team.max(max);
}

// The summary of a part that the team holds. Every thread receives it.
template <typename Task, typename Team, typename Index, int packs, int pack>
__device__ __forceinline__ typename Task::Summary summarize_part(
    const typename Task::Operator& op,
    const HeldPacks<Task, packs, pack>& held,
    const Part<Index>& part,
    Team& team,
    HeldTerms<Task, packs, pack>& terms) {
  using Operator = typename Task::Operator;
  using Lane = typename Operator::Output;
  constexpr int kThreads = Team::kThreads;
  constexpr int kPartials = pack == 1 ? 4 : pack;
  Lane partial[kPartials];
  SOFTMAX_EXT_UNROLL
  for (Lane& sum : partial) sum = 0;
  if constexpr (!Operator::kHasMax) {
    for_each_element(held, terms, [&](const auto& element, Lane&, int e) {
      partial[e % kPartials] += op.term(element);
    });
    return team.template sum<false>(partial, Lane(0), part.shift).sum;
  } else {
    const Lane max = max_of_part(held, part, team, terms);
    Lane maxima = 0;
    make_terms<kThreads>(op, held, part, max, terms, [&](Lane logit, Lane term, int e) {
      const bool is_left_out = Operator::kLeavesOutMaxima && logit == max;
      if (is_left_out) maxima += 1;
      if (!is_left_out) partial[e % kPartials] += term;
    });
    const auto total = team.template sum<Operator::kLeavesOutMaxima>(partial, maxima, part.shift);
    return op.summary_of(max, total.sum * (Lane(1) / Task::kTermUnit), total.maxima);
  }
}

// Stores what map(i, j), of element j of pack i, yields.
template <int threads, int packs, bool is_aligned, typename Task, typename Index, typename Map>
__device__ __forceinline__ void store_part(
    const RowPlace<Task>& place, const Part<Index>& part, int thread, Map map) {
  using Out = typename Task::Out;
  constexpr int kPack = Task::kPackElements;
  constexpr int kHeld = kHeldPacks<packs, is_aligned>;
  const auto mapped_pack = [&](int i) {
    return Pack<Out, kPack>::from_lanes([&](int j) { return map(i, j); });
  };
  const Index first = part.first_column() + static_cast<Index>(thread) * kPack;
  Out* const mine = place.output + first;
  SOFTMAX_EXT_UNROLL
  for (int i = 0; i < kHeld; ++i) {
    const Index column = first + i * threads * kPack;
    if (is_aligned ? column < part.end : part.has_whole(column, kPack))
      store_pack(mine + i * threads * kPack, mapped_pack(i));
  }
  if constexpr (!is_aligned)
    for_each_broken_pack<threads, packs, kPack>(part, thread, [&](int broken, Index column) {
      auto mapped = Pack<Out, kPack>::filled_with(Out());
      SOFTMAX_EXT_UNROLL
      for (int i = 0; i < kHeld; ++i)
        if (i == broken) mapped = mapped_pack(i);
      store_elements(place.output, column, part.begin, part.end, mapped);
    });
}

// Stores the outputs of a part, by map(i, j), in a row with these constants.
template <
    int packs,
    bool is_aligned,
    typename Task,
    typename Team,
    typename Constants,
    typename Index,
    typename Map>
__device__ __forceinline__ void store_outputs(
    const Task& task,
    const RowPlace<Task>& place,
    const Constants& constants,
    const Part<Index>& part,
    const Team& team,
    Map map) {
  store_part<Team::kThreads, packs, is_aligned>(place, part, team.thread(), map);
  if constexpr (Task::PerRow::kHasSpecialColumn) {
    // Over what this thread has just stored there.
    const int64_t column = task.per_row.special_column(constants);
    if (column < part.begin || column >= part.end) return;
    const int64_t pack = (column - part.first_column()) / Task::kPackElements;
    if (pack % Team::kThreads == team.thread())
      place.output[column] = from_lane<typename Task::Out>(task.per_row.special_output(constants));
  }
}

// Maps a part that is held, from its terms or its elements, in a row with this summary. `rescale` is
// what terms want that are measured from the part's maximum and not the row's.
template <int packs, bool is_aligned, typename Task, typename Team, typename Index, int held_packs>
__device__ __forceinline__ void map_part(
    const Task& task,
    int64_t row,
    const RowPlace<Task>& place,
    const typename Task::Operator& op,
    const typename Task::Summary& summary,
    const HeldPacks<Task, held_packs>& held,
    const HeldTerms<Task, held_packs>& terms,
    typename Task::Operator::Output rescale,
    const Part<Index>& part,
    const Team& team) {
  using Lane = typename Task::Operator::Output;
  const auto of_row = task.per_row.constants(row, op, summary);
  if constexpr (Task::kMapsTerms) {
    const auto constants = task.per_row.rescaled(op, of_row, rescale * (Lane(1) / Task::kTermUnit));
    store_outputs<packs, is_aligned>(task, place, constants, part, team, [&](int i, int j) {
      return task.per_row.map_term(op, terms.of_pack[i][j], constants);
    });
  } else {
    store_outputs<packs, is_aligned>(task, place, of_row, part, team, [&](int i, int j) {
      return task.per_row.map(op, held.at(i, j), of_row);
    });
  }
}

// exp of the distance between the maxima of a part and of its row.
template <typename Operator>
__device__ __forceinline__ typename Operator::Output rescale_of(
    const Operator& op, typename Operator::Output max, typename Operator::Output of_row) {
  return max == of_row ? typename Operator::Output(1) : op.term(max, of_row);
}

// A part from its load to its store; of_row(op, summary) gives every thread the summary of the row
// from that of the part.
template <
    int packs,
    bool is_aligned,
    bool is_whole_row,
    typename Task,
    typename Team,
    typename Index,
    typename OfRow>
__device__ __forceinline__ void map_resident_part(
    const Task& task, int64_t row, Index begin, Index end, Team& team, OfRow of_row) {
  const RowPlace<Task> place(task, row);
  const auto op = task.per_row.operator_of(row);
  const Part<Index> part{begin, end, shift_of<is_aligned>(place)};
  auto held = load_part<Team::kThreads, packs, is_aligned>(place, part, team.thread());
  HeldTerms<Task, kHeldPacks<packs, is_aligned>> terms;
  typename Task::Operator::Output rescale = 1;
  auto summary = op.empty();
  if constexpr (Task::kReduces) {
    const auto of_part = summarize_part(op, held, part, team, terms);
    if constexpr (!Task::kMapsTerms) held.forget_conversions();
    summary = of_row(op, of_part);
    if constexpr (Task::kMapsTerms && !is_whole_row)
      rescale = rescale_of(op, of_part.max, summary.max);
  }
  if constexpr (Task::kMaps)
    map_part<packs, is_aligned>(task, row, place, op, summary, held, terms, rescale, part, team);
}

}  // namespace softmax_ext::cuda
