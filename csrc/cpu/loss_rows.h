#pragma once
// What goes into and comes out of the losses of rows.

#include <cstdint>

namespace softmax_ext::cpu {

// A number for each of several runs of rows of one length.
template <typename Lane>
struct RunValues {
  const Lane* data;
  int64_t rows;  // in a run

  Lane operator[](int64_t row) const { return data[row / rows]; }
};

// Of each row.
template <typename Lane>
struct LossResults {
  Lane* losses;
  Lane* logsumexp;          // or null
  Lane* weights = nullptr;  // Σ q; or null
};

// The gradients of the losses, and of the log-sum-exps.
template <typename Lane>
struct LossGradients {
  RunValues<Lane> losses;
  const Lane* logsumexp;  // or null: 0
};

}  // namespace softmax_ext::cpu
