// Radix select, then a sort of what was selected.
//
// Blocks come in the order of (key descending, index ascending). A group's threshold is the first
// block in that order that no longer fits; it is found digit by digit from sums of costs over equal
// digits, first those of the key, then those of the index. By count each cost is 1 and the budget
// k. Sums are integers that saturate, so their order does not matter. What comes before the
// threshold is collected in ascending index, and a stable sort by key gives the rest.
#include <type_traits>

#include "kernels/cuda/device.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/primitives.h"
#include "kernels/cuda/workspace.h"

namespace peel::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kItems = 8;  // blocks a thread has under way at a time
constexpr int kTile = kThreads * kItems;
constexpr int kDigitBits = 11;
constexpr int kBins = 1 << kDigitBits;
constexpr int kBinsPerThread = kBins / kThreads;
constexpr int64_t kSmall = 4 * kTile;  // blocks of a group that one thread block selects from
constexpr uint32_t kNone = 0xffffffff;

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

// ---- few blocks a group: a thread block does all of it ----

template <typename Weight, bool kByCost>
__global__ void __launch_bounds__(kThreads)
    select_small(TopkBlocks<Weight> args, Digits digits, uint64_t* offenders,
                 Selected<KeyOf<Weight, kByCost>> to) {
  __shared__ Sums<kByCost> sums;
  __shared__ Threshold threshold;
  const int64_t group = blockIdx.x;
  const Blocks<Weight, kByCost> blocks(args, group);
  if (threadIdx.x == 0) begin_threshold(threshold, budget_of(args, group));
  __syncthreads();
  for (int d = 0; d < digits.count && !threshold.found; ++d) {
    sums.clear();
    __syncthreads();
    for (int64_t tile = 0; tile < args.n; tile += kTile) {
      sum_tile(blocks, group, tile, digits.digit[d], threshold, offenders, sums);
    }
    __syncthreads();
    choose_bin(sums, digits.digit[d], threshold);
    __syncthreads();
  }
  int64_t base = 0;
  for (int64_t tile = 0; tile < args.n; tile += kTile) {
    base += collect_tile(blocks, group, tile, base, threshold, to);
  }
}

// ---- many: all thread blocks share each step ----

template <typename Weight>
__global__ void begin_groups(TopkBlocks<Weight> args, Threshold* thresholds) {
  const int64_t group = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (group < args.num_groups) begin_threshold(thresholds[group], budget_of(args, group));
}

// `parts` thread blocks a group.
template <typename Weight, bool kByCost>
__global__ void __launch_bounds__(kThreads)
    sum_digit(TopkBlocks<Weight> args, Digit digit, int64_t parts, const Threshold* thresholds,
              unsigned long long* low, unsigned long long* high, uint64_t* offenders) {
  __shared__ Sums<kByCost> sums;
  const int64_t group = blockIdx.x / parts;
  const Threshold threshold = thresholds[group];
  if (threshold.found) return;
  const Blocks<Weight, kByCost> blocks(args, group);
  sums.clear();
  __syncthreads();
  for (int64_t tile = blockIdx.x % parts * kTile; tile < args.n; tile += parts * kTile) {
    sum_tile(blocks, group, tile, digit, threshold, offenders, sums);
  }
  __syncthreads();
  GlobalSums all{low + group * kBins, high + group * kBins};
  for (int bin = static_cast<int>(threadIdx.x); bin < kBins; bin += kThreads) {
    all.add(bin, sums.total(bin));
  }
}

__global__ void __launch_bounds__(kThreads)
    choose_digit(Digit digit, Threshold* thresholds, unsigned long long* low,
                 unsigned long long* high) {
  const int64_t group = blockIdx.x;
  if (thresholds[group].found) return;
  const GlobalSums all{low + group * kBins, high + group * kBins};
  choose_bin(all, digit, thresholds[group]);
  for (int bin = static_cast<int>(threadIdx.x); bin < kBins; bin += kThreads) {
    all.low[bin] = all.high[bin] = 0;
  }
}

// counts[group * tiles + t]: selected blocks in each tile.
template <typename Weight, bool kByCost>
__global__ void __launch_bounds__(kThreads)
    count_tiles(TopkBlocks<Weight> args, int64_t tiles, const Threshold* thresholds,
                int64_t* counts) {
  __shared__ unsigned total;
  const int64_t group = blockIdx.x / tiles;
  const Blocks<Weight, kByCost> blocks(args, group);
  const int64_t begin = blockIdx.x % tiles * kTile + threadIdx.x / kWarpSize * kWarpSize * kItems;
  if (threadIdx.x == 0) total = 0;
  __syncthreads();
  unsigned masks[kItems];
  KeyOf<Weight, kByCost> keys[kItems];
  const int mine = select_tile(blocks, begin, thresholds[group], masks, keys);
  if (threadIdx.x % kWarpSize == 0) atomicAdd(&total, static_cast<unsigned>(mine));
  __syncthreads();
  if (threadIdx.x == 0) counts[blockIdx.x] = total;
}

template <typename Weight, bool kByCost>
__global__ void __launch_bounds__(kThreads)
    collect_tiles(TopkBlocks<Weight> args, int64_t tiles, const Threshold* thresholds,
                  const int64_t* places, Selected<KeyOf<Weight, kByCost>> to) {
  const int64_t group = blockIdx.x / tiles;
  const Blocks<Weight, kByCost> blocks(args, group);
  const int64_t base = places[blockIdx.x] - places[group * tiles];
  collect_tile(blocks, group, blockIdx.x % tiles * kTile, base, thresholds[group], to);
}

__global__ void write_sorted(const uint32_t* positions, int64_t count, int64_t* indices) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < count) indices[i] = positions[i] == kNone ? -1 : int64_t{positions[i]};
}

// ---- the steps in order ----

template <typename Weight, bool kByCost>
struct Memory {
  using Key = KeyOf<Weight, kByCost>;

  int64_t width, tiles, count;
  Threshold* thresholds = nullptr;
  unsigned long long *low = nullptr, *high = nullptr;
  int64_t *tile_counts = nullptr, *tile_places = nullptr;
  Key *keys = nullptr, *sorted_keys = nullptr;
  uint32_t *positions = nullptr, *sorted_positions = nullptr;
  SortPairs<Key, uint32_t> pairs;
  void* scratch = nullptr;
  int64_t scratch_bytes = 0;
  int64_t bytes = 0;

  Memory(const TopkBlocks<Weight>& args, void* memory)
      : width(kByCost ? args.n : args.k),
        tiles(blocks_for(args.n, kTile)),
        count(args.num_groups * width) {
    Workspace workspace(memory);
    if (args.n > kSmall) {
      thresholds = workspace.take<Threshold>(args.num_groups);
      low = workspace.take<unsigned long long>(args.num_groups * kBins);
      high = workspace.take<unsigned long long>(args.num_groups * kBins);
      tile_counts = workspace.take<int64_t>(args.num_groups * tiles);
      tile_places = workspace.take<int64_t>(args.num_groups * tiles);
      scratch_bytes = exclusive_scan_workspace(args.num_groups * tiles);
    }
    if (args.sorted) {
      keys = workspace.take<Key>(count);
      sorted_keys = workspace.take<Key>(count);
      positions = workspace.take<uint32_t>(count);
      sorted_positions = workspace.take<uint32_t>(count);
      pairs = {keys, sorted_keys, positions, sorted_positions, args.num_groups, width};
      const int64_t sorting = sort_pairs_workspace(pairs);
      scratch_bytes = scratch_bytes > sorting ? scratch_bytes : sorting;
    }
    scratch = workspace.take<uint8_t>(scratch_bytes);
    bytes = workspace.bytes();
  }
};

template <typename Weight, bool kByCost>
void select_large(const TopkBlocks<Weight>& args, const Digits& digits,
                  const Memory<Weight, kByCost>& memory, const Selected<KeyOf<Weight, kByCost>>& to,
                  const Launch& launch_on) {
  void* const stream = launch_on.stream;
  const int64_t sums_bytes = args.num_groups * kBins * 8;
  fill_bytes(memory.low, 0, sums_bytes, stream);
  fill_bytes(memory.high, 0, sums_bytes, stream);
  launch(begin_groups<Weight>, blocks_for(args.num_groups, kThreads), kThreads, 0, stream, args,
         memory.thresholds);
  int64_t parts = blocks_for(int64_t{8} * num_multiprocessors(), args.num_groups);
  parts = parts < memory.tiles ? parts : memory.tiles;
  const auto groups = static_cast<unsigned>(args.num_groups);
  for (int d = 0; d < digits.count; ++d) {
    launch(sum_digit<Weight, kByCost>, groups * static_cast<unsigned>(parts), kThreads, 0, stream,
           args, digits.digit[d], parts, memory.thresholds, memory.low, memory.high,
           launch_on.offenders);
    launch(choose_digit, groups, kThreads, 0, stream, digits.digit[d], memory.thresholds,
           memory.low, memory.high);
  }
  const int64_t all_tiles = args.num_groups * memory.tiles;
  launch(count_tiles<Weight, kByCost>, static_cast<unsigned>(all_tiles), kThreads, 0, stream, args,
         memory.tiles, memory.thresholds, memory.tile_counts);
  exclusive_scan(memory.tile_counts, memory.tile_places, all_tiles, memory.scratch,
                 memory.scratch_bytes, stream);
  launch(collect_tiles<Weight, kByCost>, static_cast<unsigned>(all_tiles), kThreads, 0, stream,
         args, memory.tiles, memory.thresholds, memory.tile_places, to);
}

template <typename Weight, bool kByCost>
void select(const TopkBlocks<Weight>& args, const Launch& launch_on) {
  if (args.num_groups == 0 || args.n == 0) return;
  using Key = KeyOf<Weight, kByCost>;
  void* const stream = launch_on.stream;
  const Memory<Weight, kByCost> memory(args, launch_on.workspace);
  const Selected<Key> to{memory.width, args.indices, memory.keys, memory.positions};
  Digits digits;
  digits.add(false, 8 * sizeof(Key));
  digits.add(true, bits_below(args.n));
  if (args.sorted) {  // what is not selected comes last: no key of a number has all bits set
    fill_bytes(memory.keys, 0xff, memory.count * static_cast<int64_t>(sizeof(Key)), stream);
    fill_bytes(memory.positions, 0xff, memory.count * 4, stream);
  } else {
    fill_bytes(args.indices, 0xff, memory.count * 8, stream);
  }
  if (args.n > kSmall) {
    select_large(args, digits, memory, to, launch_on);
  } else {
    launch(select_small<Weight, kByCost>, static_cast<unsigned>(args.num_groups), kThreads, 0,
           stream, args, digits, launch_on.offenders, to);
  }
  if (!args.sorted) return;
  sort_pairs(memory.pairs, memory.scratch, memory.scratch_bytes, stream);
  launch(write_sorted, blocks_for(memory.count, kThreads), kThreads, 0, stream,
         memory.sorted_positions, memory.count, args.indices);
}

}  // namespace

template <typename Weight>
int64_t topk_blocks_workspace(const TopkBlocks<Weight>& args) {
  return args.budget_bytes ? Memory<Weight, true>(args, nullptr).bytes
                           : Memory<Weight, false>(args, nullptr).bytes;
}

template <typename Weight>
void topk_blocks(const TopkBlocks<Weight>& args, const Launch& launch_on) {
  args.budget_bytes ? select<Weight, true>(args, launch_on)
                    : select<Weight, false>(args, launch_on);
}

template int64_t topk_blocks_workspace(const TopkBlocks<float>&);
template int64_t topk_blocks_workspace(const TopkBlocks<double>&);
template void topk_blocks(const TopkBlocks<float>&, const Launch&);
template void topk_blocks(const TopkBlocks<double>&, const Launch&);

}  // namespace peel::cuda
