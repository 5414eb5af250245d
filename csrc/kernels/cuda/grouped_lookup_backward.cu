// The gradient of grouped_lookup: pairs are sorted by target, and those of one target added up in
// ascending order, short runs by a warp, long ones by a block.
#include <algorithm>

#include "kernels/cuda/device.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/primitives.h"
#include "kernels/cuda/stored_rows.h"
#include "kernels/cuda/workspace.h"

namespace peel::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kLongRun = 128;  // pairs above which a block reads what a warp would wait for
constexpr int kColumns = 4;    // of a lane
constexpr int kColumnsAPass = kColumns * kWarpSize;
constexpr int kTogether = 4;     // rows that a warp reads at any time
constexpr int kPairsAPass = 32;  // of a block

// Pairs by target. Those without one, offenders among them, have the key num_targets and come last.
template <typename Key>  // uint32_t or uint64_t, for positions too
struct SortedPairs {
  int64_t count;
  int64_t num_targets;
  const Key* targets;
  const Key* positions;
};

template <typename Index>
struct Gradient {
  StoreTable table;
  LookupPairs<Index> pairs;
  const float* grad_out;
  bool mean_duplicates;
  float* grad;
};

template <typename Index, typename Key>
__global__ void __launch_bounds__(kThreads)
    number_pairs(StoreTable table, LookupPairs<Index> pairs, const int64_t* targets,
                 int64_t num_targets, Key* keys, Key* positions, uint64_t* offenders) {
  const int64_t m = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (m >= pairs.count) return;
  const bool sound = find_row(table, pairs, m, offenders).row >= 0;
  const int64_t target = targets[m];
  const bool there = sound && target >= 0 && target < num_targets;
  keys[m] = static_cast<Key>(there ? target : num_targets);
  positions[m] = static_cast<Key>(m);
}

// Layers held of the row of a sound pair; all of a dense one.
template <typename Index>
__device__ uint64_t held_layers(const StoreTable& table, const LookupPairs<Index>& pairs,
                                int64_t m) {
  if (table.geometry.layout == Layout::kDense) return ~uint64_t{0};
  const int64_t group = pairs.group_at(m);
  const auto index = static_cast<int64_t>(pairs.indices[m]);
  const int64_t c = table.item_group[group * table.item_group_stride + index];
  return c < 0 ? 0 : static_cast<uint64_t>(table.held[group * table.num_item_groups + c]);
}

// The layer whose being held lets the gradient of a coordinate through.
__device__ int layer_of(const Geometry& geometry, int64_t d) {
  return geometry.layout == Layout::kColumns ? static_cast<int>(d / geometry.block_dim) : 0;
}

template <typename Index>
__device__ void finish(const Gradient<Index>& gradient, int64_t target, int64_t d, float sum,
                       int64_t run) {
  if (gradient.mean_duplicates) sum = __fdiv_rn(sum, static_cast<float>(run));
  gradient.grad[target * gradient.table.geometry.dim + d] = sum;
}

// A warp for each pair that begins a short run. What a pair does not hold of a row is added as
// zero, which changes no sum: none is -0, as they begin with 0.
template <typename Index, typename Key>
__global__ void __launch_bounds__(kThreads)
    add_short_runs(Gradient<Index> gradient, SortedPairs<Key> sorted) {
  const int lane = static_cast<int>(threadIdx.x % kWarpSize);
  const int64_t first = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarpSize;
  if (first >= sorted.count) return;
  const Key target = sorted.targets[first];
  if (static_cast<int64_t>(target) == sorted.num_targets) return;
  if (first > 0 && sorted.targets[first - 1] == target) return;
  const auto in_run = [&](int64_t at) { return at < sorted.count && sorted.targets[at] == target; };
  if (in_run(first + kLongRun)) return;
  int run = 0;
  for (unsigned more = kFullWarp; more == kFullWarp; run += __popc(more)) {
    more = __ballot_sync(kFullWarp, in_run(first + run + lane));
  }
  const int64_t dim = gradient.table.geometry.dim;
  for (int64_t begin = 0; begin < dim; begin += kColumnsAPass) {
    float sums[kColumns];
    int layers[kColumns];
    for (int q = 0; q < kColumns; ++q) {
      const int64_t d = begin + lane + q * kWarpSize;
      layers[q] = d < dim ? layer_of(gradient.table.geometry, d) : 0;
      sums[q] = d < dim ? gradient.grad[static_cast<int64_t>(target) * dim + d] : 0.0f;
    }
    for (int from = 0; from < run; from += kWarpSize) {
      int64_t position = 0;
      uint64_t held = 0;
      if (from + lane < run) {
        position = static_cast<int64_t>(sorted.positions[first + from + lane]);
        held = held_layers(gradient.table, gradient.pairs, position);
      }
      const int here = min(run - from, kWarpSize);
      for (int i = 0; i < here; i += kTogether) {
        float more[kTogether][kColumns];
        for (int j = 0; j < kTogether; ++j) {
          const float* row = gradient.grad_out + __shfl_sync(kFullWarp, position, i + j) * dim;
          const uint64_t lets = __shfl_sync(kFullWarp, held, i + j);  // none beyond the run
          for (int q = 0; q < kColumns; ++q) {
            const int64_t d = begin + lane + q * kWarpSize;
            more[j][q] = d < dim && ((lets >> layers[q]) & 1u) ? row[d] : 0.0f;
          }
        }
        for (int j = 0; j < kTogether; ++j) {
          for (int q = 0; q < kColumns; ++q) sums[q] = __fadd_rn(sums[q], more[j][q]);
        }
      }
    }
    for (int q = 0; q < kColumns; ++q) {
      const int64_t d = begin + lane + q * kWarpSize;
      if (d < dim) finish(gradient, static_cast<int64_t>(target), d, sums[q], run);
    }
  }
}

// The first of the pairs [low, high) whose target is at least `target`.
template <typename Key>
__device__ int64_t lower_bound(const Key* targets, int64_t low, int64_t high, Key target) {
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (targets[middle] < target) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

// A block for every kLongRun pairs: it has the long run, if any, whose first pair at a multiple of
// kLongRun is its own.
template <typename Index, typename Key>
__global__ void __launch_bounds__(kThreads)
    add_long_runs(Gradient<Index> gradient, SortedPairs<Key> sorted) {
  __shared__ float rows[kPairsAPass][kColumnsAPass];
  const int64_t own = int64_t{blockIdx.x} * kLongRun;
  const Key target = sorted.targets[own];
  if (static_cast<int64_t>(target) == sorted.num_targets) return;
  const int64_t before = own - kLongRun;
  if (before >= 0 && sorted.targets[before] == target) return;
  const int64_t first = lower_bound(sorted.targets, max(before, int64_t{0}), own, target);
  if (first + kLongRun >= sorted.count || sorted.targets[first + kLongRun] != target) return;
  const int64_t last = lower_bound(sorted.targets, own, sorted.count, static_cast<Key>(target + 1));
  const int64_t dim = gradient.table.geometry.dim;
  const int lane = static_cast<int>(threadIdx.x % kWarpSize);
  const int warp = static_cast<int>(threadIdx.x / kWarpSize);
  const int own_column = static_cast<int>(threadIdx.x);  // of the first kColumnsAPass threads
  for (int64_t begin = 0; begin < dim; begin += kColumnsAPass) {
    const bool adds = own_column < kColumnsAPass && begin + own_column < dim;
    const int64_t at = static_cast<int64_t>(target) * dim + begin + own_column;
    float sum = adds ? gradient.grad[at] : 0.0f;
    for (int64_t from = first; from < last; from += kPairsAPass) {
      const int here = static_cast<int>(min(int64_t{kPairsAPass}, last - from));
      for (int i = warp; i < here; i += kWarps) {
        const auto m = static_cast<int64_t>(sorted.positions[from + i]);
        const uint64_t held = held_layers(gradient.table, gradient.pairs, m);
        for (int q = 0; q < kColumns; ++q) {
          const int64_t d = begin + lane + q * kWarpSize;
          const bool lets = d < dim && ((held >> layer_of(gradient.table.geometry, d)) & 1u);
          rows[i][lane + q * kWarpSize] = lets ? gradient.grad_out[m * dim + d] : 0.0f;
        }
      }
      __syncthreads();
      for (int i = 0; adds && i < here; ++i) sum = __fadd_rn(sum, rows[i][own_column]);
      __syncthreads();
    }
    if (adds) finish(gradient, static_cast<int64_t>(target), begin + own_column, sum, last - first);
  }
}

template <typename Key>
struct Arrays {
  Key* keys;
  Key* positions;
  Key* sorted_keys;
  Key* sorted_positions;
  uint8_t* sort_workspace;
  int64_t sort_bytes;

  Arrays(Workspace& workspace, int64_t count, int64_t num_targets)
      : keys(workspace.take<Key>(count)),
        positions(workspace.take<Key>(count)),
        sorted_keys(workspace.take<Key>(count)),
        sorted_positions(workspace.take<Key>(count)),
        sort_bytes(sort_pairs_workspace(sort_of(count, num_targets))) {
    sort_workspace = workspace.take<uint8_t>(sort_bytes);
  }
  SortPairs<Key, Key> sort_of(int64_t count, int64_t num_targets) const {
    SortPairs<Key, Key> sort{keys, sorted_keys, positions, sorted_positions, 1, count};
    sort.key_bits = bits_below(num_targets + 1);
    return sort;
  }
};

// Calls f with a number of the type that holds every position and target.
template <typename F>
auto with_key(int64_t count, int64_t num_targets, F&& f) {
  constexpr int64_t kLimit = int64_t{1} << 32;
  return count < kLimit && num_targets + 1 < kLimit ? f(uint32_t{}) : f(uint64_t{});
}

}  // namespace

template <typename Index>
int64_t grouped_lookup_backward_workspace(const StoreTable&, const LookupPairs<Index>& pairs,
                                          int64_t num_targets) {
  return with_key(pairs.count, num_targets, [&](auto key) {
    Workspace workspace;
    Arrays<decltype(key)>(workspace, pairs.count, num_targets);
    return workspace.bytes();
  });
}

template <typename Index>
void grouped_lookup_backward(const StoreTable& table, const LookupPairs<Index>& pairs,
                             const float* grad_out, const int64_t* targets, int64_t num_targets,
                             bool mean_duplicates, float* grad, const Launch& launch) {
  if (pairs.count == 0) return;
  with_key(pairs.count, num_targets, [&](auto key) {
    using Key = decltype(key);
    Workspace workspace(launch.workspace, launch.workspace_bytes);
    const Arrays<Key> arrays(workspace, pairs.count, num_targets);
    cuda::launch(number_pairs<Index, Key>, blocks_for(pairs.count, kThreads), kThreads, 0,
                 launch.stream, table, pairs, targets, num_targets, arrays.keys, arrays.positions,
                 launch.offenders);
    sort_pairs(arrays.sort_of(pairs.count, num_targets), arrays.sort_workspace, arrays.sort_bytes,
               launch.stream);
    const Gradient<Index> gradient{table, pairs, grad_out, mean_duplicates, grad};
    const SortedPairs<Key> sorted{pairs.count, num_targets, arrays.sorted_keys,
                                  arrays.sorted_positions};
    cuda::launch(add_short_runs<Index, Key>, blocks_for(pairs.count, kWarps), kThreads, 0,
                 launch.stream, gradient, sorted);
    cuda::launch(add_long_runs<Index, Key>, blocks_for(pairs.count, kLongRun), kThreads, 0,
                 launch.stream, gradient, sorted);
    return 0;
  });
}

#define PEEL_INSTANTIATE(Index)                                                                    \
  template int64_t grouped_lookup_backward_workspace(const StoreTable&, const LookupPairs<Index>&, \
                                                     int64_t);                                     \
  template void grouped_lookup_backward(const StoreTable&, const LookupPairs<Index>&,              \
                                        const float*, const int64_t*, int64_t, bool, float*,       \
                                        const Launch&);
PEEL_INSTANTIATE(int32_t)
PEEL_INSTANTIATE(int64_t)

}  // namespace peel::cuda
