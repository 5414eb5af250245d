// The best rows of the users of a block on a CUDA device.
//
// For each user a buffer of keys: rows that reach the user's floor are put there, and when it is
// nearly full, all but the n best go and the floor rises to the least of them. Blocks that have
// other parts of the rows for the same users share their floors.
#pragma once

#include "kernels/cuda/best_keys.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/score_bounds.h"

namespace peel::cuda {

constexpr int kThreads = 256;  // of a block
constexpr int kWarps = kThreads / kWarpSize;

// Users of a launch, and what is kept for them.
struct Query {
  int dim;
  int n;
  int capacity;  // of a buffer
  int64_t num_users;
  const int64_t* exclude_indptr;  // of the first user
  const int64_t* exclude;
  const float* users;  // [tiles, dim, users of a tile], zeros beyond the last user
  Key* floors;         // [users of all tiles]
  Key* buffers;        // [parts, users of all tiles, capacity]
  Key* best;           // [num_users, n], not sorted
  ScoreBound* bound;   // of a single user in planes
  uint2* bound_words;  // [plane_bytes]
};

// The users of a block.
template <int kUsers>
struct Kept {
  int counts[kUsers];  // of keys in the buffers
  Key floors[kUsers];
};

__device__ inline bool is_excluded(const Query& query, int64_t user, int64_t id) {
  if (!query.exclude_indptr) return false;
  int64_t low = query.exclude_indptr[user];
  int64_t high = query.exclude_indptr[user + 1];
  const int64_t end = high;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (query.exclude[middle] < id) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low < end && query.exclude[low] == id;
}

// The buffer of user u of the block.
template <int kUsers>
__device__ Key* buffer_of(const Query& query, int u) {
  const int64_t all_users = int64_t{gridDim.y} * kUsers;
  const int64_t user = int64_t{blockIdx.y} * kUsers + u;
  return query.buffers + (int64_t{blockIdx.x} * all_users + user) * query.capacity;
}

// Puts a row whose score reaches the floor's into the buffer of user u.
template <int kUsers>
__device__ void offer(const Query& query, Kept<kUsers>& kept, int u, float score, int64_t id) {
  const int64_t user = int64_t{blockIdx.y} * kUsers + u;
  if (user >= query.num_users || id < 0) return;
  const Key key = key_of(score, id);
  if (key < kept.floors[u] || is_excluded(query, user, id)) return;
  buffer_of<kUsers>(query, u)[atomicAdd(&kept.counts[u], 1)] = key;
}

// Called by all threads of a block, between barriers: after a round of at most `round` rows makes
// room for another, or at the end for the merge.
template <int kUsers>
__device__ void make_room(const Query& query, Kept<kUsers>& kept, int round) {
  const int lane = static_cast<int>(threadIdx.x % kWarpSize);
  const int warp = static_cast<int>(threadIdx.x / kWarpSize);
  const int own = warp + kWarps * lane;  // user of the lane
  static_assert(kUsers <= kThreads, "each thread has a user at most");
  Key floor = kNoKey;
  int count = 0;
  Key* shared_floor = query.floors + int64_t{blockIdx.y} * kUsers + own;
  if (own < kUsers) {
    floor = max(kept.floors[own], Key{*static_cast<volatile Key*>(shared_floor)});
    count = kept.counts[own];
    kept.floors[own] = floor;
  }
  unsigned full = __ballot_sync(kFullWarp, own < kUsers && count > query.capacity - round);
  for (; full; full &= full - 1) {
    const int of = __ffs(full) - 1;
    Key raised = __shfl_sync(kFullWarp, floor, of);
    const int left = keep_largest(buffer_of<kUsers>(query, warp + kWarps * of),
                                  __shfl_sync(kFullWarp, count, of), query.n, raised);
    if (lane != of) continue;
    kept.counts[own] = left;
    kept.floors[own] = raised;
    atomicMax(shared_floor, raised);
  }
}

// Leaves n keys in each buffer, some of them none.
template <int kUsers>
__device__ void close(const Query& query, Kept<kUsers>& kept) {
  make_room(query, kept, query.capacity);
  __syncthreads();
  const int lane = static_cast<int>(threadIdx.x % kWarpSize);
  for (int u = static_cast<int>(threadIdx.x / kWarpSize); u < kUsers; u += kWarps) {
    Key* buffer = buffer_of<kUsers>(query, u);
    for (int i = kept.counts[u] + lane; i < query.n; i += kWarpSize) buffer[i] = kNoKey;
  }
}

template <int kUsers>
__device__ void open(const Query& query, Kept<kUsers>& kept) {
  for (int u = static_cast<int>(threadIdx.x); u < kUsers; u += kThreads) {
    kept.counts[u] = 0;
    kept.floors[u] = query.floors[int64_t{blockIdx.y} * kUsers + u];
  }
  __syncthreads();
}

}  // namespace peel::cuda
