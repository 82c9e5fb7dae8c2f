#pragma once
// The CUDA kernel of sampling, as those of kernels.h.

#include "cuda/kernels.h"

namespace softmax_ext::cuda {

// An option of row r: values[r · stride], or without values the number.
template <typename T>
struct RowOption {
  const T* values;
  int64_t stride;
  T number;
};

struct SampleProblem {
  int64_t rows;
  int64_t length;  // at least 1
  ElementType type;
  StridedRows logits;  // the elements of a row are neighbours
  RowOption<double> temperatures;
  double scale;  // 1/T where there are no temperatures
  RowOption<int64_t> top_k;
  RowOption<double> top_p;
  RowOption<double> min_p;
  const int64_t* seeds;  // that of row r is seeds[r / rows_per_seed]
  int64_t rows_per_seed;
  int64_t num_samples;
  cudaStream_t stream;
};

// num_samples indices of each row and their log-probabilities, in the type of arithmetic. The indices
// of a row without a distribution are −1.
cudaError_t launch_sample(const SampleProblem&, int64_t* indices, void* log_probs);

}  // namespace softmax_ext::cuda
