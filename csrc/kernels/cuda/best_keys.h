// The n best rows of a user on a CUDA device, as keys: a row's score and id in 64 bits, the greater
// the better, no two alike.
#pragma once

#include "kernels/cuda/device.h"

namespace peel::cuda {

using Key = unsigned long long;  // as atomics take them

constexpr Key kNoKey = 0;  // below the key of any score, -inf among them

// Of a score that is a number; ids are below 2^32. Equal scores, 0 and -0 among them, come in
// ascending id.
__device__ inline Key key_of(float score, int64_t id) {
  const unsigned bits = __float_as_uint(__fadd_rn(score, 0.0f));
  const unsigned ordered = bits >> 31 ? ~bits : bits | 0x80000000u;
  return Key{ordered} << 32 | (0xffffffffu - static_cast<unsigned>(id));
}
__device__ inline float minus_infinity() { return __uint_as_float(0xff800000u); }
// -inf without a key.
__device__ inline float score_of(Key key) {
  if (key == kNoKey) return minus_infinity();
  const auto ordered = static_cast<unsigned>(key >> 32);
  return __uint_as_float(ordered >> 31 ? ordered & 0x7fffffffu : ~ordered);
}
// -1 without a key.
__device__ inline int64_t id_of(Key key) {
  return key == kNoKey ? -1 : int64_t{0xffffffffu - static_cast<unsigned>(key)};
}

// A key from `low` on that n of a set's keys reach, or `low` where no more than n reach it, found
// by halving. count_from(key): how many keys reach one, the same in all threads.
template <typename Count>
__device__ Key cut_at(int64_t n, Key low, Count&& count_from) {
  Key high = ~Key{0};
  if (count_from(low) <= n) return low;
  while (high - low > 1) {
    const Key middle = low + (high - low) / 2;
    const int64_t count = count_from(middle);
    if (count == n) return middle;
    if (count > n) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

// Moves the n largest of `count` keys to the front, without any below the floor; called by a whole
// warp. Returns how many there are, and raises the floor to the least of them where they are n.
__device__ inline int keep_largest(Key* keys, int count, int n, Key& floor) {
  const int lane = static_cast<int>(threadIdx.x % kWarpSize);
  __syncwarp();
  const Key cut = cut_at(n, floor, [&](Key least) {
    int reached = 0;
    for (int begin = 0; begin < count; begin += kWarpSize) {
      const bool there = begin + lane < count && keys[begin + lane] >= least;
      reached += __popc(__ballot_sync(kFullWarp, there));
    }
    return int64_t{reached};
  });
  Key smallest = ~Key{0};
  int kept = 0;
  for (int begin = 0; begin < count; begin += kWarpSize) {
    const Key key = begin + lane < count ? keys[begin + lane] : kNoKey;
    const bool stays = begin + lane < count && key >= cut;
    const unsigned staying = __ballot_sync(kFullWarp, stays);
    if (stays) {
      keys[kept + __popc(staying & ((1u << lane) - 1))] = key;
      smallest = min(smallest, key);
    }
    kept += __popc(staying);
    __syncwarp();
  }
  for (int with = kWarpSize / 2; with > 0; with /= 2) {
    smallest = min(smallest, __shfl_xor_sync(kFullWarp, smallest, with));
  }
  if (kept == n) floor = max(floor, smallest);
  return kept;
}

}  // namespace peel::cuda
