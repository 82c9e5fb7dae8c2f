#include "csrc/cpu/masked_rows.h"
#include "csrc/cpu/walk_logits.h"
#include "csrc/outputs.h"
#include "csrc/registration.h"

namespace softmax_ext::cpu {
namespace {

template <typename In, typename Out>
struct MaskedSoftmaxRows : SoftmaxRows<In, Out> {
  using Lane = simd::LaneOf<In>;

  static const auto& table() { return of_types<In, Out>(*kernels().masked_softmax); }
  static auto begin(simd::MaskedPointer<In> x, Lane* terms, int64_t count, Lane scale) {
    return table().summarize(x, terms, count, scale);
  }
};

// Rows of one problem with entries up to their own place alone, where kernels take the elements as they
// are: a row is the softmax of its first entries, and 0 beyond.
template <typename In, typename Out>
class CausalSoftmax {
 public:
  using Lane = simd::LaneOf<In>;

  CausalSoftmax(
      const Rows& rows,
      const TensorRows<const In>& in,
      const CausalMask& mask,
      int64_t queries,
      const TensorRows<Out>& out,
      RowValues<Lane> scales,
      bool empty_is_zero)
      : rows_(rows),
        in_(in, mask.rows()),
        mask_(mask),
        queries_(queries),
        out_(out),
        scales_(scales),
        empty_(empty_is_zero ? 0.0f : kNaN<float>) {}

  // Short rows and long ones in turn, so that threads have as much to do.
  void operator()() const {
    const int64_t blocks = (queries_ + kTogether - 1) / kTogether;
    const int64_t count = rows_.count() / queries_ * blocks;
    const int64_t grain = std::max<int64_t>(1, kElementsPerThread / kTogether / rows_.length);
    at::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t block = i % 2 == 0 ? i / 2 : count - 1 - i / 2;
        const int64_t first = block / blocks * queries_ + block % blocks * kTogether;
        work(first, std::min(first + kTogether, (block / blocks + 1) * queries_));
      }
    });
  }

 private:
  // Rows that keep few entries are worked on together, as if each kept as many as the last.
  static constexpr int64_t kFew = 128;
  static constexpr int64_t kTogether = 16;

  const Rows& rows_;
  MaskedRows<In> in_;
  const CausalMask& mask_;
  int64_t queries_;
  const TensorRows<Out>& out_;
  RowValues<Lane> scales_;
  float empty_;  // a row that keeps nothing

  void work(int64_t first, int64_t end) const {
    while (first < end && mask_.kept(first) == 0) fill(first++, 0, empty_);
    if (first == end) return;
    const int64_t most = mask_.kept(end - 1);
    if (most > kFew) {
      for (int64_t row = first; row < end; ++row) softmax_of_first(row, mask_.kept(row));
      return;
    }
    of_types<In, Out>(*kernels().masked_softmax)
        .rows(logits(in_.rows_from(first), first, end - first, most));
    for (int64_t row = first; row < end; ++row) fill_beyond(row, most);
  }
  void softmax_of_first(int64_t row, int64_t kept) const {
    if (kept > simd::kChunk)
      walk_long_rows<SoftmaxRows, In, Out>(
          {1, kept, 1},
          {in_.logits[row], {}, 1},
          {out_[row], {}, 1},
          scales_.from(row),
          {nullptr, 0});
    else
      of_types<In, Out>(*kernels().softmax).rows(logits(in_.logits[row], row, 1, kept));
    fill_beyond(row, kept);
  }
  template <typename From>
  auto logits(From from, int64_t row, int64_t count, int64_t length) const {
    return simd::Logits<simd::Pointee<From>, Out>{
        from,
        in_.offsets.strides[0],
        out_[row],
        rows_.length,
        count,
        length,
        scales_.from(row),
        sizeof(Out) < sizeof(Lane) ? scratch<Lane>(length) : nullptr,
        {nullptr, 0}
    };
  }
  // NaN in a row without probabilities.
  void fill_beyond(int64_t row, int64_t from) const {
    const auto* const elements = reinterpret_cast<const TorchElement<Out>*>(out_[row]);
    fill(row, from, elements[0] == elements[0] ? 0.0f : kNaN<float>);
  }
  void fill(int64_t row, int64_t from, float value) const {
    auto* const elements = reinterpret_cast<TorchElement<Out>*>(out_[row]);
    std::fill(elements + from, elements + rows_.length, static_cast<TorchElement<Out>>(value));
  }
};

// Rows without probabilities as no logit is above −inf become 0. As many rows at a time as lie side by
// side in memory.
template <typename In, typename Out, typename Lane>
void clear_empty_rows(
    const Rows& rows,
    const MaskedRows<In>& in,
    const TensorRows<Out>& out,
    RowValues<Lane> scales) {
  const int64_t most = out.has_rows(rows.length) ? 1 : simd::kColumns;
  for_each_range({rows.outer, 1, rows.inner}, most, [&](int64_t begin, int64_t end) {
    int64_t candidates[simd::kColumns];
    for (int64_t first = begin; first < end; first += most) {
      int64_t count = 0;
      for (int64_t row = first; row < std::min(first + most, end); ++row) {
        const auto probability = *reinterpret_cast<const TorchElement<Out>*>(out[row]);
        if (probability != probability && scales[row] == scales[row]) candidates[count++] = row;
      }
      for (int64_t j = 0; j < rows.length && count > 0; ++j)
        count = std::remove_if(
                    candidates,
                    candidates + count,
                    [&](int64_t row) {
                      return in.template element<Lane>(row, j) != -kInfinity<Lane>;
                    }) -
                candidates;
      for (int64_t j = 0; j < rows.length; ++j)
        for (int64_t i = 0; i < count; ++i)
          reinterpret_cast<TorchElement<Out>*>(out[candidates[i]])[j * out.length_stride] = 0;
    }
  });
}

Tensor masked_softmax(
    const Tensor& self,
    const optional<Tensor>& mask,
    const optional<Tensor>& temperature,
    int64_t dim,
    double scale,
    optional<int64_t> dtype,
    bool is_causal,
    bool empty_is_zero) {
  const Tensor output =
      outputs::masked_softmax(self, mask, temperature, dim, scale, dtype, is_causal, empty_is_zero);
  if (self.numel() == 0) return output;
  dim = wrapped_dim("masked_softmax", dim, self.dim());
  const Rows rows = Rows::of(self, dim);
  const RowView logits = RowView::of(self, dim);
  const int64_t queries = is_causal ? self.size(-2) : 0;
  const CausalMask causal(queries, is_causal ? rows.length : 0);
  const RowView view = is_causal ? RowView{} : mask_view(*mask, logits.tensor, dim);
  const MaskBytes bytes = is_causal ? causal.rows()
                                    : MaskBytes{
                                          static_cast<const uint8_t*>(view.tensor.const_data_ptr()),
                                          view.offsets,
                                          view.length_stride};
  with_element_type(self.scalar_type(), [&]<typename InTensor>() {
    with_element_type(output.scalar_type(), [&]<typename OutTensor>() {
      using Lane = LaneOf<InTensor, OutTensor>;
      using In = KernelElement<InTensor>;
      using Out = KernelElement<OutTensor>;
      const RowScale<Lane> scales(temperature, scale, self, dim);
      const auto x = input_rows<InTensor>(logits);
      const auto y = output_rows<OutTensor>(output, dim);
      const MaskedRows<In> in(x, bytes);
      const RowValues<Lane> no_grads{nullptr, 0};
      const bool is_done = [&] {
        if constexpr (kHasKernels<In, Out> && std::is_same_v<simd::LaneOf<In>, Lane>) {
          const bool are_rows = in.has_rows(rows.length) && y.has_rows(rows.length);
          if (!scales.is_usual() || !(are_rows || (in.has_columns() && y.has_columns())))
            return false;
          if (are_rows && is_causal)
            CausalSoftmax<In, Out>(rows, x, causal, queries, y, scales.values(), empty_is_zero)();
          else
            walk_contiguous<MaskedSoftmaxRows, In>(rows, in, y, scales.values(), no_grads);
          return true;
        }
        return false;
      }();
      if (!is_done) walk_staged<SoftmaxRows>(rows, in, y, scales.values(), no_grads);
      if (empty_is_zero) clear_empty_rows(rows, in, y, scales.values());
    });
  });
  return output;
}

}  // namespace
}  // namespace softmax_ext::cpu

SOFTMAX_EXT_LIBRARY_IMPL(CPU, m) { m.impl("_masked_softmax", &softmax_ext::cpu::masked_softmax); }
