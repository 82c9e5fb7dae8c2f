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
#include <type_traits>

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

// Whether the terms of a part are kept for the map, in the registers that its elements leave. Elements
// of 16 bits would leave half of what their terms take: those are made a second time instead, to the
// same bits, so that more rows are in flight.
template <typename Task>
inline constexpr bool kKeepsTerms = Task::kMapsTerms && sizeof(typename Task::In) > 2;

// Threads that a multiprocessor has registers for at a time, as ptxas takes them: a row of 32 words per
// thread needs 64 registers; what moves broken packs, reads a row twice or has a special column beside
// its sum, two sums or a mask takes more of its own.
template <typename Shape, bool is_aligned, bool rereads, typename Task>
inline constexpr int kThreadsPerMultiprocessor = [] {
  using In = typename Task::In;
  using Lane = typename Task::Operator::Output;
  constexpr int kElements = kHeldPacks<Shape::kPacks, is_aligned> * Task::kPackElements;
  constexpr int kHeldWords = Task::kInputs * kElements * sizeof(In) / 4;
  if (sizeof(Lane) == 8) return Task::kMapsTerms || kHeldWords > 32 ? 256 : 512;
#if defined(__CUDA_ARCH__)
  // Conversions of 16-bit elements take more before sm_80 and from sm_100 on.
  if (sizeof(In) == 2 && (__CUDA_ARCH__ < 800 || __CUDA_ARCH__ >= 1000))
    return kHeldWords < 36 ? 512 : 256;
#endif
  constexpr bool kHasSpecialColumn = [] {
    if constexpr (Task::kMaps && Task::kReduces) return Task::PerRow::kHasSpecialColumn;
    return false;
  }();
  constexpr bool kTakesMore = rereads ? Task::kMaps || Task::kSumsDistances
                                      : Task::kMaps && (Task::kSumsDistances || Task::kMasks);
  if (is_aligned && kHeldWords <= 32 && !kTakesMore && !kHasSpecialColumn) return 1024;
  if (!is_aligned && rereads && Task::kMaps && sizeof(In) == 2) return 256;
  return kHeldWords <= (rereads ? 64 : 72) ? 512 : 256;
}();

// The second launch bound of a kernel. Without one ptxas aims at 64 registers in some instances and
// spills, or takes as many as it likes; with one that is too high it spills too.
template <typename Shape, bool is_aligned, typename Task, bool rereads = false>
inline constexpr int kBlocksPerMultiprocessor = [] {
  constexpr int kBlocks =
      kThreadsPerMultiprocessor<Shape, is_aligned, rereads, Task> / Shape::kThreads;
  return kBlocks > 0 ? kBlocks : 1;
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

// Makes padding of what is not kept of a part that was loaded.
template <int threads, typename Task, int packs, int pack, typename Index>
__device__ __forceinline__ void leave_out(
    HeldPacks<Task, packs, pack>& held,
    const KeptColumns& kept,
    const Part<Index>& part,
    int thread) {
  SOFTMAX_EXT_UNROLL
  for (int i = 0; i < packs; ++i) {
    const Index first = part.first_column() + static_cast<Index>(i * threads + thread) * pack;
    SOFTMAX_EXT_UNROLL
    for (int j = 0; j < pack; ++j) {
      const Index column = first + j;
      if (column < part.begin || column >= part.end || !kept(column))
        held.of_input[0][i].set(j, Task::padding());
    }
  }
}

// Terms of a part, kept for the map.
template <typename Task, int packs, int pack_elements = Task::kPackElements>
struct HeldTerms {
  using Lane = typename Task::Operator::Output;

  Lane of_pack[packs][pack_elements];

  // Before those of a pack are made, or not as no thread has it. Else, for ptxas, they are alive
  // since the last row, in registers of their own beside those of the elements.
  __device__ __forceinline__ void clear(int i) {
    SOFTMAX_EXT_UNROLL
    for (Lane& term : of_pack[i]) term = 0;
  }
  __device__ __forceinline__ void keep(int i, int j, Lane term) { of_pack[i][j] = term; }
};

// Terms that are made again when they are wanted.
struct NoTerms {
  __device__ __forceinline__ void clear(int) {}
  template <typename Lane>
  __device__ __forceinline__ void keep(int, int, Lane) {}
};

// Calls body(element, e) for every held element e.
template <typename Task, int packs, int pack, typename Body>
__device__ __forceinline__ void for_each_element(
    const HeldPacks<Task, packs, pack>& held, Body body) {
  SOFTMAX_EXT_UNROLL
  for (int i = 0; i < packs; ++i) {
    SOFTMAX_EXT_UNROLL
    for (int j = 0; j < pack; ++j) body(held.at(i, j), i * pack + j);
  }
}

// Calls body(term_of), where term_of(element) is the element's term, measured from `max` and times
// 2^kTermOffset.
template <typename Task, typename Lane, typename Body>
__device__ __forceinline__ void with_terms(const typename Task::Operator& op, Lane max, Body body) {
  const auto exponential = op.template terms_from<Task::kTermOffset>(max);
  if (!exponential.is_usable())
    body([&](Lane logit) { return op.term(logit, max) * Task::kTermUnit; });
  else if constexpr (Task::kTermsInFull)
    body([&](Lane logit) { return exponential.in_full(logit); });
  else
    body([&](Lane logit) { return exponential(logit); });
}

// Makes the term of every element and calls add(element, term, e).
template <
    int threads,
    typename Task,
    typename Index,
    int packs,
    int pack,
    typename Lane,
    typename Terms,
    typename Add>
__device__ __forceinline__ void make_terms(
    const typename Task::Operator& op,
    const HeldPacks<Task, packs, pack>& held,
    const Part<Index>& part,
    Lane max,
    Terms& terms,
    Add add) {
  with_terms<Task>(op, max, [&](auto term_of) {
    SOFTMAX_EXT_UNROLL
    for (int i = 0; i < packs; ++i) {
      terms.clear(i);
      if (is_beyond<threads, pack>(part, i)) continue;
      SOFTMAX_EXT_UNROLL
      for (int j = 0; j < pack; ++j) {
        const Lane logit = held.at(i, j);
        const Lane term = term_of(logit);
        terms.keep(i, j, term);
        add(logit, term, i * pack + j);
      }
    }
  });
}

template <typename Task, typename Team, int packs, int pack>
__device__ __forceinline__ typename Task::Operator::Output max_of_part(
    const HeldPacks<Task, packs, pack>& held, Team& team) {
  using Lane = typename Task::Operator::Output;
  Lane max = Task::Operator::padding();
  for_each_element(held, [&](Lane logit, int) { max = maximum(max, logit); });
  return team.max(max);
}

// The summary of a part that the team holds. Every thread receives it.
template <typename Task, typename Team, typename Index, int packs, int pack, typename Terms>
__device__ __forceinline__ typename Task::Summary summarize_part(
    const typename Task::Operator& op,
    HeldPacks<Task, packs, pack>& held,
    const Part<Index>& part,
    Team& team,
    Terms& terms) {
  using Operator = typename Task::Operator;
  using Lane = typename Operator::Output;
  constexpr int kThreads = Team::kThreads;
  constexpr int kPartials = pack == 1 ? 4 : pack;
  Lane partial[kPartials];
  [[maybe_unused]] Lane distances[kPartials];
  SOFTMAX_EXT_UNROLL
  for (int j = 0; j < kPartials; ++j) partial[j] = distances[j] = 0;
  if constexpr (!Operator::kHasMax) {
    for_each_element(
        held, [&](const auto& element, int e) { partial[e % kPartials] += op.term(element); });
    return team.template sum<false>(partial, Lane(0), part.shift).sum;
  } else {
    const Lane max = max_of_part(held, team);
    held.forget_conversions();
    Lane maxima = 0;
    make_terms<kThreads>(op, held, part, max, terms, [&](Lane logit, Lane term, int e) {
      const bool is_left_out = Operator::kLeavesOutMaxima && logit == max;
      if (is_left_out) maxima += 1;
      if (!is_left_out) partial[e % kPartials] += term;
      if constexpr (Task::kSumsDistances)
        distances[e % kPartials] += term * op.distance(logit, max);
    });
    const auto total = team.template sum<Operator::kLeavesOutMaxima>(partial, maxima, part.shift);
    constexpr Lane kUnit = Lane(1) / Task::kTermUnit;
    if constexpr (Task::kSumsDistances) {
      const auto of_distances = team.template sum<false>(distances, Lane(0), part.shift);
      return op.summary_of(max, total.sum * kUnit, total.maxima, of_distances.sum * kUnit);
    } else {
      return op.summary_of(max, total.sum * kUnit, total.maxima);
    }
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

// What a team holds of a part from its load to its store.
template <int packs, bool is_aligned, typename Task>
struct HeldPart {
  using Operator = typename Task::Operator;
  using Lane = typename Operator::Output;
  static constexpr int kHeld = kHeldPacks<packs, is_aligned>;

  HeldPacks<Task, kHeld> elements;
  std::conditional_t<kKeepsTerms<Task>, HeldTerms<Task, kHeld>, NoTerms> terms;
  Lane max;  // of the part, where terms are mapped

  template <typename Team, typename Index>
  __device__ __forceinline__ void load(
      const RowPlace<Task>& place, const Part<Index>& part, const Team& team) {
    if constexpr (Task::kMasks) {
      // No pack of columns that none is kept of.
      Part<Index> read = part;
      if (place.kept.end < read.end) read.end = static_cast<Index>(place.kept.end);
      if (read.end < read.begin) read.end = read.begin;
      elements = load_part<Team::kThreads, packs, is_aligned>(place, read, team.thread());
      leave_out<Team::kThreads>(elements, place.kept, read, team.thread());
    } else {
      elements = load_part<Team::kThreads, packs, is_aligned>(place, part, team.thread());
    }
  }

  template <typename Team, typename Index>
  __device__ __forceinline__ typename Task::Summary summarize(
      const Operator& op, const Part<Index>& part, Team& team) {
    const auto summary = summarize_part(op, elements, part, team, terms);
    if constexpr (Task::kMapsTerms) max = summary.max;
    if constexpr (!kKeepsTerms<Task>) elements.forget_conversions();
    return summary;
  }

  // What comes of summarize() for the map, of a part whose summary is known.
  template <typename Team, typename Index>
  __device__ __forceinline__ void make_terms_again(
      const Operator& op, const Part<Index>& part, Team& team) {
    if constexpr (Task::kMapsTerms) max = max_of_part(elements, team);
    if constexpr (kKeepsTerms<Task>)
      make_terms<Team::kThreads>(op, elements, part, max, terms, [](Lane, Lane, int) {});
  }

  // Stores the outputs, in a row with this summary. `rescale` is what terms want that are measured
  // from the part's maximum and not the row's.
  template <typename Team, typename Index>
  __device__ __forceinline__ void map(
      const Task& task,
      int64_t row,
      const RowPlace<Task>& place,
      const Operator& op,
      const typename Task::Summary& summary,
      Lane rescale,
      const Part<Index>& part,
      const Team& team) const {
    const auto of_row = task.per_row.constants(row, op, summary);
    if constexpr (!Task::kMapsTerms) {
      store_outputs<packs, is_aligned>(task, place, of_row, part, team, [&](int i, int j) {
        return task.per_row.map(op, elements.at(i, j), of_row);
      });
    } else {
      const auto constants =
          task.per_row.rescaled(op, of_row, rescale * (Lane(1) / Task::kTermUnit));
      const auto store = [&](auto term_at) {
        store_outputs<packs, is_aligned>(task, place, constants, part, team, [&](int i, int j) {
          return task.per_row.map_term(op, term_at(i, j), constants);
        });
      };
      if constexpr (kKeepsTerms<Task>)
        store([&](int i, int j) { return terms.of_pack[i][j]; });
      else
        with_terms<Task>(op, max, [&](auto term_of) {
          store([&](int i, int j) { return term_of(elements.at(i, j)); });
        });
    }
  }
};

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
  HeldPart<packs, is_aligned, Task> held;
  held.load(place, part, team);
  typename Task::Operator::Output rescale = 1;
  auto summary = op.empty();
  if constexpr (Task::kReduces) {
    const auto of_part = held.summarize(op, part, team);
    summary = of_row(op, of_part);
    if constexpr (Task::kMapsTerms && !is_whole_row)
      rescale = rescale_of(op, of_part.max, summary.max);
  }
  if constexpr (Task::kMaps) held.map(task, row, place, op, summary, rescale, part, team);
}

}  // namespace softmax_ext::cuda
