#include "cuda/simt.h"

__global__ void use_raw_shared(float* target) {
  __shared__ float value;
  value = 1;
  *target = value;
}
