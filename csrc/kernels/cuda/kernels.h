// The kernels on a CUDA device: the contracts of csrc/kernels with these differences.
//
// All pointers are device pointers. Nothing here allocates, waits for the device or reads its
// memory on the host, so every call may be captured in a CUDA graph. The caller gives a workspace
// of NAME_workspace(...) bytes, aligned to 256, with the same arguments.
//
// What is wrong inside the data is noted in `offenders`, words that the device and the caller see:
// UINT64_MAX where nothing is, else position << 32 | uint32(value clipped to int32) of the lowest
// offending position. Word 0 is for indices, 1 for groups, 2 for refinement_slot, 3 for item_group,
// 4 for NaN weights at g * n + i. An offending pair gives a row of NaN, and no write elsewhere;
// nothing outside of the arrays is read or written.
#pragma once

#include <cstdint>

#include "core/table.h"
#include "kernels/gathered_score.h"
#include "kernels/grouped_lookup.h"
#include "kernels/topk_blocks.h"
#include "kernels/update_rows.h"

namespace peel::cuda {

struct Launch {
  void* stream = nullptr;  // cudaStream_t
  void* workspace = nullptr;
  int64_t workspace_bytes = 0;
  uint64_t* offenders = nullptr;  // [kNumOffenders]
};

// With a NaN weight the output is unspecified, but in range.
template <typename Weight>  // float or double
int64_t topk_blocks_workspace(const TopkBlocks<Weight>& args);
template <typename Weight>
void topk_blocks(const TopkBlocks<Weight>& args, const Launch& launch);

template <typename Index>  // int32_t or int64_t
int64_t grouped_lookup_workspace(const StoreTable& table, const LookupPairs<Index>& pairs);
template <typename Index>
void grouped_lookup(const StoreTable& table, const LookupPairs<Index>& pairs, float* out,
                    const Launch& launch);

template <typename Index>
int64_t grouped_lookup_workspace(const PackedTable& table, const LookupPairs<Index>& pairs);
template <typename Index>
void grouped_lookup(const PackedTable& table, const LookupPairs<Index>& pairs, float* out,
                    const Launch& launch);

template <typename Index>
int64_t grouped_lookup_backward_workspace(const StoreTable& table, const LookupPairs<Index>& pairs,
                                          int64_t num_targets);
template <typename Index>
void grouped_lookup_backward(const StoreTable& table, const LookupPairs<Index>& pairs,
                             const float* grad_out, const int64_t* targets, int64_t num_targets,
                             bool mean_duplicates, float* grad, const Launch& launch);

int64_t gathered_score_workspace(const DenseRows& rows, const ScoreArgs& args);
void gathered_score(const DenseRows& rows, const ScoreArgs& args, const Launch& launch);

int64_t gathered_score_workspace(const PackedTable& table, const ScoreArgs& args);
void gathered_score(const PackedTable& table, const ScoreArgs& args, const Launch& launch);

// With an index out of range no row is written.
template <UpdateRule kRule>
int64_t update_rows_workspace(const UpdateRows& args);
template <UpdateRule kRule>
void update_rows(const UpdateRows& args, const Launch& launch);

}  // namespace peel::cuda
