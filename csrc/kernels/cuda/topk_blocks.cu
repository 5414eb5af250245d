// Radix select, then a stable sort by key of what was selected.
#include "kernels/cuda/device.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/primitives.h"
#include "kernels/cuda/radix_select.h"
#include "kernels/cuda/workspace.h"

namespace peel::cuda {
namespace {

constexpr int64_t kSmall = 4 * kTile;  // blocks of a group that one thread block selects from
constexpr uint32_t kNone = 0xffffffff;

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

  Memory(const TopkBlocks<Weight>& args, Workspace workspace)
      : width(kByCost ? args.n : args.k),
        tiles(blocks_for(args.n, kTile)),
        count(args.num_groups * width) {
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
  const Memory<Weight, kByCost> memory(args, {launch_on.workspace, launch_on.workspace_bytes});
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
  return args.budget_bytes ? Memory<Weight, true>(args, {}).bytes
                           : Memory<Weight, false>(args, {}).bytes;
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
