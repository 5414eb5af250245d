// grouped_lookup: rows of (index, group) pairs out of per-group block-sparse tables.
//
// Forward, one row of `dim` values for each pair m:
//   dense            weight[i], plus the group's refinement of i where there is one.
//   columns, planes  the decoded value of that row, of it only the blocks the group holds; what is
//                    not held is zero (columns: those columns; planes: the bits above the held ones
//                    are unknown and the level of the held ones stands for the value, no bits
//                    give zeros). With a rotation, rows are turned back by it after decoding.
//   packed           the same out of one Personalized Elastic Embedding; `indices` are row ids.
// Backward is straight through the decoding to the fp32 master rows: grad[targets[m]] += the part
// of grad_out[m] whose blocks are held, summed over duplicates in ascending m, in fp32.
//
// Every value is decoded with one rounding (and the rotation with a fixed order of roundings), so
// the result has the same bits for every instruction set and number of threads. Empty input is
// legal. The caller has checked shapes; indices, groups and what they lead to in refinement_slot
// and item_group are checked here, before any is used.
#pragma once

#include <cstdint>

#include "core/host_device.h"
#include "core/table.h"

namespace peel {

enum class LookupStatus : int32_t {
  kOk = 0,
  kBadIndex = 1,
  kBadGroup = 2,
  kBadSlot = 3,       // refinement_slot of the pair is beyond the refinement
  kBadItemGroup = 4,  // item_group of the pair is beyond held
};

struct LookupResult {
  LookupStatus status = LookupStatus::kOk;
  int64_t position = -1;  // of the first offending pair
};

template <typename Index>  // int32_t or int64_t
struct LookupPairs {
  int64_t count = 0;
  const Index* indices = nullptr;
  const Index* groups = nullptr;  // null: all in `group`
  int64_t group = 0;

  PEEL_HD int64_t group_at(int64_t m) const {
    return groups ? static_cast<int64_t>(groups[m]) : group;
  }
};

// out is [count, dim], contiguous.
template <typename Index>
LookupResult grouped_lookup(const StoreTable& table, const LookupPairs<Index>& pairs, float* out);

// Rows of one packed table; ids not held give zeros.
template <typename Index>
LookupResult grouped_lookup(const PackedTable& table, const LookupPairs<Index>& pairs, float* out);

// grad_out is [count, dim] contiguous; targets [count] are rows of grad, -1 for none, in range;
// grad [num_targets, dim] is zeroed by the caller. With mean_duplicates a target's sum is divided
// by how often it occurs.
template <typename Index>
LookupResult grouped_lookup_backward(const StoreTable& table, const LookupPairs<Index>& pairs,
                                     const float* grad_out, const int64_t* targets,
                                     int64_t num_targets, bool mean_duplicates, float* grad);

}  // namespace peel
