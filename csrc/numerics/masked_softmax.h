#pragma once
// softmax over the entries of a row that a mask keeps: the others are −inf when they meet it. What a
// row is that keeps no logit above −inf is for the caller to say.

#include "csrc/numerics/row_operators.h"

namespace softmax_ext {

template <typename Lane, typename Total = Lane>
struct MaskedSoftmaxForward : SoftmaxForward<Lane, Total> {
  using typename SoftmaxForward<Lane, Total>::Summary;
  using typename SoftmaxForward<Lane, Total>::Constants;
  using SoftmaxForward<Lane, Total>::scale;

  bool empty_is_zero;  // else NaN

  SOFTMAX_EXT_HOST_DEVICE Constants constants(Summary summary) const {
    const bool is_empty = summary.max == -kInfinity<Lane> && summary.rest == Total(-1);
    if (empty_is_zero && is_empty && scale == scale) return {Lane(0), Lane(0)};
    return SoftmaxForward<Lane, Total>::constants(summary);
  }
};

}  // namespace softmax_ext
