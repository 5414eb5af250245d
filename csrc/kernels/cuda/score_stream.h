// A few users on a CUDA device: rows stream past them, a lane a row.
#pragma once

#include "kernels/cuda/best_rows.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/score_bounds.h"
#include "kernels/cuda/score_slots.h"

namespace peel::cuda {

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
        if (bound_group != place.item_group.index) {
          bound_group = place.item_group.index;
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

}  // namespace peel::cuda
