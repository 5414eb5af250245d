// topk_blocks: which blocks a budget keeps.
//
// Per user group g, from n block weights:
//   by count:  the k largest weights.
//   by budget: the longest run of blocks, in descending weight per byte, whose costs sum to at most
//              budget_bytes[g]. The run stops at the first block that does not fit, so a smaller
//              budget always keeps a subset.
// Selected block indices come out in descending order of the key (weight, or double(weight) /
// double(cost)), equal keys in ascending index (0.0 and -0.0 are equal), or where not `sorted` all
// in ascending index; the rest of a row is -1. Which blocks are selected is the same either way.
// Exact, no full sort, the same result for every number of threads.
//
// The caller has checked: 0 <= k <= n < 2^32, costs >= 1, budgets >= 0. NaN is found here and
// refused.
#pragma once

#include <cstdint>

namespace peel {

template <typename Weight>  // float or double
struct TopkBlocks {
  int64_t num_groups = 0;
  int64_t n = 0;
  const Weight* weights = nullptr;  // [num_groups, n], rows weight_stride elements apart
  int64_t weight_stride = 0;
  int64_t k = 0;                   // unused by budget
  const int64_t* costs = nullptr;  // [num_groups, n], rows cost_stride apart (0: shared)
  int64_t cost_stride = 0;
  const int64_t* budget_bytes = nullptr;  // [num_groups]; null: by count
  bool sorted = true;
  int64_t* indices = nullptr;  // out [num_groups, by count: k, by budget: n], contiguous
};

// Returns -1, or the flat position g * n + i of a NaN weight; the output is then unspecified.
template <typename Weight>
int64_t topk_blocks(const TopkBlocks<Weight>& args);

}  // namespace peel
