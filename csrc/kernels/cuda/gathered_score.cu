// Rows are scored by a stream of them past a few users, a lane a row, or by tiles of users and
// rows that a block multiplies. Either way a row's coordinates are added up in ascending order with
// fused multiply-adds, so that its score does not depend on what is scored beside it.
//
// The rows are cut into parts; a block has one of them, and some users. At last the parts' best
// rows are merged.
#include <algorithm>

#include "kernels/cuda/best_keys.h"
#include "kernels/cuda/best_rows.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/score_bounds.h"
#include "kernels/cuda/score_slots.h"
#include "kernels/cuda/score_stream.h"
#include "kernels/cuda/score_tiles.h"
#include "kernels/cuda/workspace.h"
#include "kernels/gathered_score.h"

namespace peel::cuda {
namespace {

constexpr int64_t kLeastSlack = 128;     // keys that come before all but the n best go
constexpr int64_t kUsersALaunch = 4096;  // the workspace does not grow beyond these

// users[tile, d, u] of a tile's users, zeros where there is none.
__global__ void __launch_bounds__(kThreads)
    arrange_users(const float* users, int64_t num_users, int64_t user_stride, int dim,
                  int tile_users, int64_t count, float* out) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= count) return;
  const int64_t user = i / tile_users / dim * tile_users + i % tile_users;
  const int64_t d = i / tile_users % dim;
  out[i] = user < num_users ? users[user * user_stride + d] : 0.0f;
}

__global__ void __launch_bounds__(kThreads) check_candidates(DenseRows rows, uint64_t* offenders) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= rows.num_candidates) return;
  const int64_t id = rows.candidates[i];
  if (id < 0 || id >= rows.num_embeddings) report(offenders, kIndices, i, id);
}

constexpr int kMergeThreads = 512;

// The sum of what the threads of a block have, in all of them.
__device__ int64_t sum_in_block(int own, int* shared) {
  if (threadIdx.x == 0) *shared = 0;
  __syncthreads();
  const auto sum = __reduce_add_sync(kFullWarp, static_cast<unsigned>(own));
  if (threadIdx.x % kWarpSize == 0) atomicAdd(shared, static_cast<int>(sum));
  __syncthreads();
  const int total = *shared;
  __syncthreads();
  return total;
}

// A block for each user: the n best of what its parts have kept, then their ranks.
__global__ void __launch_bounds__(kMergeThreads)
    merge_parts(Query query, int parts, int64_t all_users, float* scores, int64_t* indices) {
  __shared__ int shared;
  const int64_t user = blockIdx.x;
  const int lane = static_cast<int>(threadIdx.x % kWarpSize);
  const int warp = static_cast<int>(threadIdx.x / kWarpSize);
  const auto each_key = [&](auto&& take) {
    for (int part = warp; part < parts; part += kMergeThreads / kWarpSize) {
      const Key* keys = query.buffers + (part * all_users + user) * query.capacity;
      for (int i = lane; i < query.n; i += kWarpSize) take(keys[i]);
    }
  };
  const Key floor = max(query.floors[user], kNoKey + 1);
  const Key cut = cut_at(query.n, floor, [&](Key least) {
    int reached = 0;
    each_key([&](Key key) { reached += key >= least; });
    return sum_in_block(reached, &shared);
  });
  Key* best = query.best + user * query.n;
  if (threadIdx.x == 0) shared = 0;
  __syncthreads();
  each_key([&](Key key) {
    if (key >= cut) best[atomicAdd(&shared, 1)] = key;
  });
  __syncthreads();
  const int count = shared;
  for (int i = static_cast<int>(threadIdx.x); i < query.n; i += kMergeThreads) {
    const Key own = i < count ? best[i] : kNoKey;
    int rank = i;
    if (i < count) {
      rank = 0;
      for (int j = 0; j < count; ++j) rank += best[j] > own;
    }
    scores[user * query.n + rank] = score_of(own);
    indices[user * query.n + rank] = id_of(own);
  }
}

// How a call is cut into blocks, and its workspace into arrays.
struct Plan {
  int64_t tile_users;  // of a block
  int64_t tiles;
  int64_t parts;
  Query query = {};
  float* users;

  Plan(Workspace& workspace, int64_t num_slots, int64_t dim, const ScoreArgs& args) {
    const int64_t num_users = std::min(args.num_users, kUsersALaunch);
    tile_users = num_users == 1 ? 1 : num_users <= 8 ? 4 : num_users <= 64 ? 32 : 128;
    if (dim == 0) tile_users = 1;  // tiles count on a coordinate
    tiles = (num_users + tile_users - 1) / tile_users;
    const int64_t round = streams() ? kStreamRound : kTileRows;
    const int64_t blocks = num_multiprocessors() * (streams() ? 4 : 2);
    const int64_t rounds = num_slots * kSlotRows / round + 1;
    parts = std::clamp<int64_t>(blocks / std::max<int64_t>(tiles, 1), 1, rounds);
    query.dim = static_cast<int>(dim);
    query.n = static_cast<int>(args.n);
    query.capacity = static_cast<int>(args.n + std::max(args.n, kLeastSlack) + round);
    users = workspace.take<float>(tiles * tile_users * dim);
    query.users = users;
    query.floors = workspace.take<Key>(tiles * tile_users);
    query.buffers = workspace.take<Key>(parts * tiles * tile_users * query.capacity);
    query.best = workspace.take<Key>(num_users * args.n);
    query.bound = workspace.take<ScoreBound>(1);
    query.bound_words = workspace.take<uint2>((dim + 7) / 8);
  }
  bool streams() const { return tile_users <= 4; }
};

template <typename Slots>
void run(const Slots& slots, const ScoreArgs& args, const Launch& launch) {
  Workspace workspace(launch.workspace, launch.workspace_bytes);
  const Plan plan(workspace, slots.num_slots(), slots.dim(), args);
  const auto kernel = plan.tile_users == 1    ? score_stream<Slots, 1>
                      : plan.tile_users == 4  ? score_stream<Slots, 4>
                      : plan.tile_users == 32 ? score_tiles<Slots, 2>
                                              : score_tiles<Slots, 8>;
  for (int64_t first = 0; first < args.num_users; first += kUsersALaunch) {
    Query query = plan.query;
    query.num_users = std::min(kUsersALaunch, args.num_users - first);
    query.exclude_indptr = args.exclude_indptr ? args.exclude_indptr + first : nullptr;
    query.exclude = args.exclude;
    const int64_t all_users = plan.tiles * plan.tile_users;
    const int64_t values = all_users * query.dim;
    cuda::launch(arrange_users, blocks_for(values, kThreads), kThreads, 0, launch.stream,
                 args.users + first * args.user_stride, query.num_users, args.user_stride,
                 query.dim, static_cast<int>(plan.tile_users), values, plan.users);
    if constexpr (Slots::kHasBounds) {
      const bool planes = slots.table().geometry.layout == Layout::kPlanes;
      if (planes && plan.tile_users == 1) {
        make_bound(plan.users, query.dim, slots.table().levels, query.bound, query.bound_words,
                   launch.stream);
      }
    }
    fill_bytes(query.floors, 0, all_users * static_cast<int64_t>(sizeof(Key)), launch.stream);
    const dim3 grid(static_cast<unsigned>(plan.parts), static_cast<unsigned>(plan.tiles));
    cuda::launch(kernel, grid, kThreads, 0, launch.stream, slots, query);
    cuda::launch(merge_parts, static_cast<unsigned>(query.num_users), kMergeThreads, 0,
                 launch.stream, query, static_cast<int>(plan.parts), all_users,
                 args.scores + first * args.n, args.indices + first * args.n);
  }
}

template <typename Slots>
int64_t workspace_of(const Slots& slots, const ScoreArgs& args) {
  Workspace workspace;
  const Plan plan(workspace, slots.num_slots(), slots.dim(), args);
  return workspace.bytes();
}

}  // namespace

int64_t gathered_score_workspace(const DenseRows& rows, const ScoreArgs& args) {
  return workspace_of(DenseSlots(rows), args);
}

void gathered_score(const DenseRows& rows, const ScoreArgs& args, const Launch& launch) {
  if (rows.candidates) {
    cuda::launch(check_candidates, blocks_for(rows.num_candidates, kThreads), kThreads, 0,
                 launch.stream, rows, launch.offenders);
  }
  run(DenseSlots(rows), args, launch);
}

int64_t gathered_score_workspace(const PackedTable& table, const ScoreArgs& args) {
  return workspace_of(PackedSlots(table), args);
}

void gathered_score(const PackedTable& table, const ScoreArgs& args, const Launch& launch) {
  run(PackedSlots(table), args, launch);
}

}  // namespace peel::cuda
