// Radix select of blocks in the order of (key descending, index ascending).
//
// A group's threshold is the first block in that order that no longer fits; it is found digit by
// digit from sums of costs over equal digits, first those of the key, then those of the index. By
// count each cost is 1 and the budget k. Sums are integers that saturate, so their order does not
// matter. What comes before the threshold is collected in ascending index.
#pragma once

#include <type_traits>

#include "kernels/cuda/device.h"
#include "kernels/topk_blocks.h"

namespace peel::cuda {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kItems = 8;  // blocks a thread has under way at a time
constexpr int kTile = kThreads * kItems;
constexpr int kDigitBits = 11;
constexpr int kBins = 1 << kDigitBits;
constexpr int kBinsPerThread = kBins / kThreads;

// Bits [shift, shift + kDigitBits) of the key or the index; `mask` has the bits above.
struct Digit {
  bool first = false;
  bool of_index = false;
  int shift = 0;
  uint64_t mask = 0;
};

struct Digits {
  int count = 0;
  Digit digit[16];

  void add(bool of_index, int bits) {
    for (int at = (bits + kDigitBits - 1) / kDigitBits - 1; at >= 0; --at) {
      const int shift = at * kDigitBits;
      const int end = shift + kDigitBits;
      digit[count] = {count == 0, of_index, shift, end < 64 ? ~uint64_t{0} << end : 0};
      ++count;
    }
  }
};

struct Threshold {
  uint64_t key;
  uint64_t index;
  uint64_t left;  // of the budget, for blocks from here on
  bool found;
};

// Larger is earlier: ascending integers for descending values. Both zeros are one.
__device__ inline uint32_t descending(float value) {
  const uint32_t bits = __float_as_uint(value + 0.0f);
  return bits >> 31 ? bits : ~bits & 0x7fffffffu;
}
__device__ inline uint64_t descending(double value) {
  const uint64_t bits = static_cast<uint64_t>(__double_as_longlong(value + 0.0));
  return bits >> 63 ? bits : ~bits & (~uint64_t{0} >> 1);
}

// The blocks of one user group.
template <typename Weight, bool kByCost>
struct Blocks {
  using Value = std::conditional_t<kByCost, double, Weight>;
  using Key = std::conditional_t<sizeof(Value) == 4, uint32_t, uint64_t>;

  int64_t n;
  const Weight* weights;
  const int64_t* costs;

  __device__ Blocks(const TopkBlocks<Weight>& args, int64_t group)
      : n(args.n),
        weights(args.weights + group * args.weight_stride),
        costs(kByCost ? args.costs + group * args.cost_stride : nullptr) {}

  __device__ int64_t cost(int64_t i) const { return kByCost ? costs[i] : 1; }
  __device__ Key key(Weight weight, int64_t cost) const {
    if constexpr (kByCost) {
      return descending(static_cast<double>(weight) / static_cast<double>(cost));
    } else {
      return descending(weight);
    }
  }
};

template <typename Weight, bool kByCost>
using KeyOf = typename Blocks<Weight, kByCost>::Key;

__device__ inline uint64_t add_saturating(uint64_t a, uint64_t b) {
  return a + b < a ? ~uint64_t{0} : a + b;
}

// Sums of costs a bin, of one thread block. Two 32-bit words, for which shared memory has atomics.
template <bool kByCost>
struct Sums {
  unsigned low[kBins];
  unsigned high[kByCost ? kBins : 1];
  unsigned beyond[kByCost ? kBins / 32 : 1];  // bit: the sum is 2^64 or more

  __device__ void clear() {
    for (unsigned bin = threadIdx.x; bin < kBins; bin += kThreads) {
      low[bin] = 0;
      if constexpr (kByCost) {
        high[bin] = 0;
        if (bin % 32 == 0) beyond[bin / 32] = 0;
      }
    }
  }
  __device__ void add(unsigned bin, uint64_t cost) {
    const unsigned part = static_cast<unsigned>(cost);
    const unsigned old = atomicAdd(&low[bin], part);
    if constexpr (kByCost) {
      const uint64_t rest = (cost >> 32) + (old + part < old);
      if (rest == 0) return;
      const unsigned more = static_cast<unsigned>(rest);
      const unsigned before = atomicAdd(&high[bin], more);
      if (before + more < before || rest >> 32) atomicOr(&beyond[bin / 32], 1u << bin % 32);
    }
  }
  __device__ uint64_t total(int bin) const {
    if constexpr (kByCost) {
      if (beyond[bin / 32] >> bin % 32 & 1u) return ~uint64_t{0};
      return uint64_t{high[bin]} << 32 | low[bin];
    } else {
      return low[bin];
    }
  }
};

// The same of all thread blocks: low and high halves apart, so that no sum of sums overflows.
struct GlobalSums {
  unsigned long long* low;  // [kBins]
  unsigned long long* high;

  __device__ void add(int bin, uint64_t total) {
    const uint64_t part = total & 0xffffffffu;
    if (part != 0) atomicAdd(low + bin, static_cast<unsigned long long>(part));
    if (total >> 32 != 0) atomicAdd(high + bin, static_cast<unsigned long long>(total >> 32));
  }
  __device__ uint64_t total(int bin) const {
    const uint64_t above = high[bin] + (low[bin] >> 32);
    return above >> 31 ? ~uint64_t{0} : above << 32 | (low[bin] & 0xffffffffu);
  }
};

__device__ inline void begin_threshold(Threshold& threshold, uint64_t budget) {
  threshold.key = threshold.index = 0;
  threshold.left = budget;
  threshold.found = false;
}

// What may be spent by one group.
template <typename Weight>
__device__ uint64_t budget_of(const TopkBlocks<Weight>& args, int64_t group) {
  const int64_t budget = args.budget_bytes ? args.budget_bytes[group] : args.k;
  return static_cast<uint64_t>(budget > 0 ? budget : 0);
}

// Adds to `sums` the costs of the blocks [tile, tile + kTile) that share the threshold's higher
// digits.
template <typename Weight, bool kByCost>
__device__ void sum_tile(const Blocks<Weight, kByCost>& blocks, int64_t group, int64_t tile,
                         const Digit& digit, const Threshold& threshold, uint64_t* offenders,
                         Sums<kByCost>& sums) {
  Weight weight[kItems];
  int64_t cost[kItems];
#pragma unroll
  for (int j = 0; j < kItems; ++j) {
    const int64_t i = tile + j * kThreads + threadIdx.x;
    weight[j] = i < blocks.n ? blocks.weights[i] : Weight(0);
    cost[j] = i < blocks.n ? blocks.cost(i) : 1;
  }
#pragma unroll
  for (int j = 0; j < kItems; ++j) {
    const int64_t i = tile + j * kThreads + threadIdx.x;
    if (i >= blocks.n) break;
    if (digit.first && weight[j] != weight[j]) report(offenders, kNan, group * blocks.n + i, 0);
    const uint64_t key = blocks.key(weight[j], cost[j]);
    const uint64_t index = static_cast<uint64_t>(i);
    const bool same = digit.of_index
                          ? key == threshold.key && ((index ^ threshold.index) & digit.mask) == 0
                          : ((key ^ threshold.key) & digit.mask) == 0;
    if (!same) continue;
    const uint64_t from = digit.of_index ? index : key;
    sums.add(static_cast<unsigned>(from >> digit.shift) % kBins, static_cast<uint64_t>(cost[j]));
  }
}

// Moves the threshold to the first bin that does not fit whole. Takes all threads of the block, of
// which the first returns what the threshold becomes.
template <typename Totals>
__device__ void choose_bin(const Totals& totals, const Digit& digit, Threshold& threshold) {
  __shared__ uint64_t warp_totals[kWarps];
  __shared__ int chosen;
  __shared__ uint64_t chosen_left;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int first = static_cast<int>(threadIdx.x) * kBinsPerThread;
  if (threadIdx.x == 0) chosen = -1;
  uint64_t mine = 0;
  for (int j = 0; j < kBinsPerThread; ++j) mine = add_saturating(mine, totals.total(first + j));
  uint64_t sum = mine;
  for (int delta = 1; delta < kWarpSize; delta *= 2) {
    const uint64_t other = __shfl_up_sync(kFullWarp, sum, static_cast<unsigned>(delta));
    if (lane >= delta) sum = add_saturating(sum, other);
  }
  if (lane == kWarpSize - 1) warp_totals[warp] = sum;
  uint64_t before = __shfl_up_sync(kFullWarp, sum, 1);
  if (lane == 0) before = 0;
  __syncthreads();
  for (int w = 0; w < warp; ++w) before = add_saturating(before, warp_totals[w]);
  const uint64_t left = threshold.left;
  if (before <= left && add_saturating(before, mine) > left) {
    int bin = first;
    uint64_t rest = left - before;
    while (totals.total(bin) <= rest) rest -= totals.total(bin++);
    chosen = bin;
    chosen_left = rest;
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  if (chosen < 0) {  // all of them fit
    threshold.key = threshold.index = ~uint64_t{0};
    threshold.found = true;
    return;
  }
  uint64_t& part = digit.of_index ? threshold.index : threshold.key;
  part |= static_cast<uint64_t>(chosen) << digit.shift;
  threshold.left = chosen_left;
  threshold.found = chosen_left == 0;  // costs are positive: nothing of the bin fits
}

// Where selected blocks go: to the result, or with their keys to the sort.
template <typename Key>
struct Selected {
  int64_t width;
  int64_t* indices;
  Key* keys;            // null: to indices
  uint32_t* positions;  // [num_groups, width]
};

// A warp has 32 * kItems adjacent blocks of the tile; bit l of masks[j] says whether its block 32 *
// j + l is selected. Returns how many are, in the whole warp.
template <typename Weight, bool kByCost>
__device__ int select_tile(const Blocks<Weight, kByCost>& blocks, int64_t begin,
                           const Threshold& threshold, unsigned (&masks)[kItems],
                           KeyOf<Weight, kByCost> (&keys)[kItems]) {
  int count = 0;
#pragma unroll
  for (int j = 0; j < kItems; ++j) {
    const int64_t i = begin + j * kWarpSize + threadIdx.x % kWarpSize;
    keys[j] = i < blocks.n ? blocks.key(blocks.weights[i], blocks.cost(i)) : 0;
  }
#pragma unroll
  for (int j = 0; j < kItems; ++j) {
    const int64_t i = begin + j * kWarpSize + threadIdx.x % kWarpSize;
    const bool selected =
        i < blocks.n && (keys[j] < threshold.key ||
                         (keys[j] == threshold.key && static_cast<uint64_t>(i) < threshold.index));
    masks[j] = __ballot_sync(kFullWarp, selected);
    count += __popc(masks[j]);
  }
  return count;
}

// Writes the selected blocks of a tile from place `base` of the group on; returns how many.
template <typename Weight, bool kByCost>
__device__ int collect_tile(const Blocks<Weight, kByCost>& blocks, int64_t group, int64_t tile,
                            int64_t base, const Threshold& threshold,
                            const Selected<KeyOf<Weight, kByCost>>& to) {
  __shared__ int counts[kWarps];
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int64_t begin = tile + warp * kWarpSize * kItems;
  unsigned masks[kItems];
  KeyOf<Weight, kByCost> keys[kItems];
  const int mine = select_tile(blocks, begin, threshold, masks, keys);
  if (lane == 0) counts[warp] = mine;
  __syncthreads();
  int total = 0;
  for (int w = 0; w < kWarps; ++w) {
    if (w < warp) base += counts[w];
    total += counts[w];
  }
  __syncthreads();  // before the next tile's counts
#pragma unroll
  for (int j = 0; j < kItems; ++j) {
    const int64_t place = base + __popc(masks[j] & ((1u << lane) - 1));
    if ((masks[j] >> lane & 1u) && place < to.width) {
      const int64_t i = begin + j * kWarpSize + lane;
      if (to.keys) {
        to.keys[group * to.width + place] = keys[j];
        to.positions[group * to.width + place] = static_cast<uint32_t>(i);
      } else {
        to.indices[group * to.width + place] = i;
      }
    }
    base += __popc(masks[j]);
  }
  return total;
}

}  // namespace peel::cuda
