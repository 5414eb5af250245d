// update_rows: one optimiser step on the rows that have a gradient, and on no others.
//
// The gradient of row i is the sum of gradients[m] over the m with indices[m] == i, added in
// ascending m in fp32. Per touched row, with g its gradient:
//   kRowwiseAdagrad  sum[i] += mean over d of g[d]^2
//                    w[d] -= learning_rate * g[d] / (sqrt(sum[i]) + eps)
//                    (Duchi et al., 2011, with one accumulator a row: Mudigere et al., 2021, sec.
//                    3)
//                    and nothing where sum[i] is zero, which its gradient then was
//   kAdam            m[d] += rate1 * (g[d] - m[d]);  v[d] += rate2 * (g[d]^2 - v[d])
//                    w[d] -= step_size * m[d] / (sqrt(v[d]) + eps)
//                    (Kingma and Ba, 2015, "lazy": moments of other rows do not decay), with
//                    rate = 1 - beta and step_size = learning_rate * sqrt(1 - beta2^t) / (1 -
//                    beta1^t).
// The same bits for every number of threads and instruction set. Empty input is legal. The caller
// has checked shapes, and that gradients, state and the rows of weight lie apart in memory; indices
// are checked here, before any row is written.
#pragma once

#include <cstdint>

namespace peel {

enum class UpdateRule : int32_t { kRowwiseAdagrad = 0, kAdam = 1 };

struct UpdateRows {
  float* weight = nullptr;  // [num_embeddings, dim], rows weight_stride elements apart
  int64_t num_embeddings = 0;
  int64_t dim = 0;
  int64_t weight_stride = 0;
  const int64_t* indices = nullptr;  // [count]
  int64_t count = 0;
  const float* gradients = nullptr;  // [count, dim], rows gradient_stride elements apart
  int64_t gradient_stride = 0;
  float* first = nullptr;   // adagrad: sum [num_embeddings]; adam: m [num_embeddings, dim]
  float* second = nullptr;  // adam: v [num_embeddings, dim]
  float step_size = 0;      // adagrad: the learning rate
  float rate1 = 0;
  float rate2 = 0;
  float eps = 0;
};

// Returns -1, or the position of the first index out of range; then nothing was written.
template <UpdateRule kRule>
int64_t update_rows(const UpdateRows& args);

}  // namespace peel
