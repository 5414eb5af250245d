// Many users on a CUDA device: a block multiplies tiles of users and rows.
#pragma once

#include "kernels/cuda/best_rows.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/score_slots.h"

namespace peel::cuda {

constexpr int kSlotsATile = 4;
constexpr int kTileRows = kSlotsATile * kSlotRows;
constexpr int kTileDims = 32;  // multiplied at a time
constexpr int kHalfDims = 16;  // loaded by a warp of one slot
constexpr int kRowsAThread = 8;
constexpr int kThreadRows = 16;  // threads of a block by rows, and as many by users

// Which row or user of a tile is number i of thread t: fours, a tile of 16 threads apart.
__device__ inline int place_in_tile(int t, int i, int of_thread) {
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

}  // namespace peel::cuda
