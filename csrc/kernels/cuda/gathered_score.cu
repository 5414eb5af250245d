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
#include "kernels/cuda/workspace.h"
#include "kernels/gathered_score.h"

namespace peel::cuda {
namespace {

constexpr int64_t kLeastSlack = 128;     // keys that come before all but the n best go
constexpr int64_t kUsersALaunch = 4096;  // the workspace does not grow beyond these

// ---- a few users ----

constexpr int kSlotsAWarp = 4;  // of a round
constexpr int kStreamRound = kSlotsAWarp * kWarps * kSlotRows;

template <typename Slots, int kUsers>
__global__ void __launch_bounds__(kThreads, 3) score_stream(Slots slots, Query query) {
  __shared__ Kept<kUsers> kept;
  const float* prepared = slots.prepare();
  open(query, kept);
  const int lane = static_cast<int>(threadIdx.x % kWarpSize);
  const int warp = static_cast<int>(threadIdx.x / kWarpSize);
  const int64_t begin = slots.num_slots() * blockIdx.x / gridDim.x;
  const int64_t end = slots.num_slots() * (blockIdx.x + 1) / gridDim.x;
  const float* users = query.users + int64_t{blockIdx.y} * kUsers * query.dim;
  typename Slots::Place place = {};
  if (begin < end) place = slots.start(begin);
  [[maybe_unused]] BoundPlanes bound_planes = {};
  [[maybe_unused]] int64_t bound_group = -1;
  for (int64_t round = begin; round < end; round += kSlotsAWarp * kWarps) {
    float floors[kUsers];
    for (int u = 0; u < kUsers; ++u) floors[u] = score_of(kept.floors[u]);
    for (int i = 0; i < kSlotsAWarp; ++i) {
      const int64_t slot = round + i * kWarps + warp;
      if (slot >= end) break;
      place = slots.move(place, slot);
      int row = lane;
      if constexpr (Slots::kHasBounds && kUsers == 1) {
        if (bound_group != place.group.index) {
          bound_group = place.group.index;
          bound_planes = slots.bound_planes(place, *query.bound);
        }
        if (bound_planes.bits > 0 && place.count == kSlotRows) {
          row = bounded_row(lane);
          if (!may_reach(bound_planes, *query.bound, query.bound_words, (query.dim + 7) / 8,
                         place.first, floors[0])) {
            continue;
          }
        }
      }
      if (row >= place.count) continue;
      float sums[kUsers] = {};
      slots.for_values(place, row, 0, query.dim, prepared, [&](int d, float value) {
        for (int u = 0; u < kUsers; ++u) {
          sums[u] = __fmaf_rn(__ldg(users + d * kUsers + u), value, sums[u]);
        }
      });
      for (int u = 0; u < kUsers; ++u) {
        if (sums[u] >= floors[u]) offer(query, kept, u, sums[u], slots.id(place, row));
      }
    }
    __syncthreads();
    make_room(query, kept, kStreamRound);
    __syncthreads();
  }
  close(query, kept);
}

// ---- many users ----

constexpr int kSlotsATile = 4;
constexpr int kTileRows = kSlotsATile * kSlotRows;
constexpr int kTileDims = 32;  // multiplied at a time
constexpr int kHalfDims = 16;  // loaded by a warp of one slot
constexpr int kRowsAThread = 8;
constexpr int kThreadRows = 16;  // threads of a block by rows, and as many by users

// Which row or user of a tile is number i of thread t: fours, a tile of 16 threads apart.
__device__ int place_in_tile(int t, int i, int of_thread) {
  const int run = of_thread < 4 ? of_thread : 4;
  return i / run * kThreadRows * run + t * run + i % run;
}

template <int kCount>
__device__ void load_shared(const float* from, int t, float* values) {
  if constexpr (kCount % 4 == 0) {
    for (int i = 0; i < kCount; i += 4) {
      const float4 four = *reinterpret_cast<const float4*>(from + place_in_tile(t, i, kCount));
      values[i] = four.x;
      values[i + 1] = four.y;
      values[i + 2] = four.z;
      values[i + 3] = four.w;
    }
  } else {
    for (int i = 0; i < kCount; ++i) values[i] = from[place_in_tile(t, i, kCount)];
  }
}

// Loads what warp `warp` has to: 16 coordinates of the rows of one slot.
template <typename Slots>
__device__ void load_values(const Slots& slots, const typename Slots::Place& place, int warp,
                            int begin, const float* prepared, float (*values)[kTileRows]) {
  const int lane = static_cast<int>(threadIdx.x % kWarpSize);
  const int row = warp % kSlotsATile * kSlotRows + lane;
  const int from = begin + warp / kSlotsATile * kHalfDims;
  const int to = min(from + kHalfDims, slots.dim());
  const bool there = lane < place.count;
  if (!Slots::kHasAllCoordinates || !there || to < from + kHalfDims) {
    for (int d = from; d < from + kHalfDims; ++d) values[d - begin][row] = 0.0f;
  }
  if (!there || from >= to) return;
  slots.for_values(place, lane, from, to, prepared,
                   [&](int d, float value) { values[d - begin][row] = value; });
}

// Offers what reaches a floor of a thread's scores. They are copied first: chosen by a counter they
// lie in memory, and what reaches none had better stay in registers.
template <int kUsersAThread, typename Slots>
__device__ void offer_tile(const Slots& slots, const Query& query,
                           Kept<kThreadRows * kUsersAThread>& kept,
                           const typename Slots::Place* places, int by_user, int by_row,
                           const float (&floors)[kUsersAThread],
                           const float (&sums)[kUsersAThread][kRowsAThread]) {
  float scores[kUsersAThread * kRowsAThread];
  uint64_t reached = 0;
#pragma unroll
  for (int i = 0; i < kUsersAThread * kRowsAThread; ++i) {
    scores[i] = sums[i / kRowsAThread][i % kRowsAThread];
    reached |= uint64_t{scores[i] >= floors[i / kRowsAThread]} << i;
  }
  for (; reached; reached &= reached - 1) {
    const int i = __ffsll(static_cast<long long>(reached)) - 1;
    const int row = place_in_tile(by_row, i % kRowsAThread, kRowsAThread);
    const auto& slot = places[row / kSlotRows];
    if (row % kSlotRows >= slot.count) continue;
    offer(query, kept, place_in_tile(by_user, i / kRowsAThread, kUsersAThread), scores[i],
          slots.id(slot, row % kSlotRows));
  }
}

template <typename Slots, int kUsersAThread>
__global__ void __launch_bounds__(kThreads, 2) score_tiles(Slots slots, Query query) {
  constexpr int kUsers = kThreadRows * kUsersAThread;
  __shared__ Kept<kUsers> kept;
  __shared__ typename Slots::Place places[kSlotsATile];
  __shared__ float4 user_fours[kTileDims * kUsers / 4];
  __shared__ float4 value_fours[kTileDims * kTileRows / 4];
  auto* values = reinterpret_cast<float (*)[kTileRows]>(value_fours);
  const float* prepared = slots.prepare();
  open(query, kept);
  const int warp = static_cast<int>(threadIdx.x / kWarpSize);
  const int by_row = static_cast<int>(threadIdx.x) % kThreadRows;
  const int by_user = static_cast<int>(threadIdx.x) / kThreadRows;
  const int64_t begin = slots.num_slots() * blockIdx.x / gridDim.x;
  const int64_t end = slots.num_slots() * (blockIdx.x + 1) / gridDim.x;
  const auto* users =
      reinterpret_cast<const float4*>(query.users + int64_t{blockIdx.y} * kUsers * query.dim);
  typename Slots::Place place = {};
  if (begin < end) place = slots.start(begin);
  for (int64_t first = begin; first < end; first += kSlotsATile) {
    if (first + warp % kSlotsATile < end) {
      place = slots.move(place, first + warp % kSlotsATile);
    } else {
      place.count = 0;
    }
    if (threadIdx.x % kWarpSize == 0 && warp < kSlotsATile) places[warp] = place;
    float sums[kUsersAThread][kRowsAThread] = {};
    for (int from = 0; from < query.dim; from += kTileDims) {
      load_values(slots, place, warp, from, prepared, values);
      const int there = min(kTileDims, query.dim - from) * kUsers / 4;
      for (int i = static_cast<int>(threadIdx.x); i < kTileDims * kUsers / 4; i += kThreads) {
        user_fours[i] = i < there ? users[from * kUsers / 4 + i] : float4{0, 0, 0, 0};
      }
      __syncthreads();
      for (int d = 0; d < kTileDims; ++d) {
        float user[kUsersAThread];
        float value[kRowsAThread];
        load_shared<kUsersAThread>(reinterpret_cast<const float*>(user_fours) + d * kUsers, by_user,
                                   user);
        load_shared<kRowsAThread>(values[d], by_row, value);
        for (int i = 0; i < kUsersAThread; ++i) {
          for (int j = 0; j < kRowsAThread; ++j) {
            sums[i][j] = __fmaf_rn(user[i], value[j], sums[i][j]);
          }
        }
      }
      __syncthreads();
    }
    bool reached = false;
    float floors[kUsersAThread];
#pragma unroll
    for (int i = 0; i < kUsersAThread; ++i) {
      floors[i] = score_of(kept.floors[place_in_tile(by_user, i, kUsersAThread)]);
#pragma unroll
      for (int j = 0; j < kRowsAThread; ++j) reached = reached || sums[i][j] >= floors[i];
    }
    if (reached) {
      offer_tile<kUsersAThread>(slots, query, kept, places, by_user, by_row, floors, sums);
    }
    __syncthreads();
    make_room(query, kept, kTileRows);
    __syncthreads();
  }
  close(query, kept);
}

// ---- before and after ----

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
  Workspace workspace(launch.workspace);
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
        make_bound(plan.users, query.dim, slots.table().centroids, query.bound, query.bound_words,
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
