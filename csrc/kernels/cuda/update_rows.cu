// Gradients are sorted by row, stably, and a warp takes the run of each row in ascending position:
// a sum over duplicates has one order, and no two warps meet in a row.
//
// Lane l has the columns l, l + 32, ... of a row; each operation is rounded as the CPU kernel
// rounds it (built without fused multiply-add).
#include "kernels/cuda/device.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/primitives.h"
#include "kernels/cuda/workspace.h"

namespace peel::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kUnderWay = 16;  // values of a run on their way from memory at any time, a lane
constexpr int64_t kNarrow = int64_t{1} << 32;

// Writes (row, position) for each gradient. With an index out of range `refused` becomes true.
template <typename Word>
__global__ void check_indices(const int64_t* indices, int64_t count, int64_t num_embeddings,
                              Word* rows, Word* positions, int* refused, uint64_t* offenders) {
  const int64_t m = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (m >= count) return;
  const int64_t row = indices[m];
  const bool inside = row >= 0 && row < num_embeddings;
  if (!inside) {
    report(offenders, kIndices, m, row);
    *refused = 1;
  }
  rows[m] = inside ? static_cast<Word>(row) : 0;
  positions[m] = static_cast<Word>(m);
}

// g[r] = the sum over the run of column begin + lane + 32 * r.
template <int kRegisters, typename Word>
__device__ void sum_run(const UpdateRows& args, const Word* positions, int64_t first, int64_t last,
                        int64_t begin, float (&g)[kRegisters]) {
  const int64_t lane = threadIdx.x % kWarpSize;
  const auto load = [&](int64_t at, float (&values)[kRegisters]) {
    const float* from = args.gradients + static_cast<int64_t>(positions[at]) * args.gradient_stride;
#pragma unroll
    for (int r = 0; r < kRegisters; ++r) {
      const int64_t d = begin + lane + r * kWarpSize;
      values[r] = d < args.dim ? from[d] : 0.0f;
    }
  };
  load(first, g);
  constexpr int kAhead = kUnderWay / kRegisters;
  for (int64_t at = first + 1; at < last; at += kAhead) {
    float more[kAhead][kRegisters] = {};  // GCC cannot tell that only what was loaded is added
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      if (at + a < last) load(at + a, more[a]);
    }
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      if (at + a >= last) break;  // adding zeros would make a 0.0 of a -0.0
#pragma unroll
      for (int r = 0; r < kRegisters; ++r) g[r] += more[a][r];
    }
  }
}

// Adds the squares of g to the partial sum over columns d % 8 == lane % 8, in ascending d.
template <int kRegisters>
__device__ void add_squares(const float (&g)[kRegisters], float& sum) {
#pragma unroll
  for (int r = 0; r < kRegisters; ++r) {
    const float square = g[r] * g[r];
#pragma unroll
    for (int eighth = 0; eighth < kWarpSize; eighth += 8) {
      sum += __shfl_sync(kFullWarp, square, static_cast<int>(threadIdx.x) % 8 + eighth);
    }
  }
}

// The eight partial sums added up as the CPU kernel does: halves upon halves.
__device__ inline float add_partial_sums(float sum) {
  for (int half = 4; half > 0; half /= 2) sum += __shfl_down_sync(kFullWarp, sum, half, 8);
  return __shfl_sync(kFullWarp, sum, 0);
}

// values[r] = row[begin + lane + 32 * r].
template <int kRegisters>
__device__ void read_row(const float* row, int64_t dim, int64_t begin,
                         float (&values)[kRegisters]) {
#pragma unroll
  for (int r = 0; r < kRegisters; ++r) {
    const int64_t d = begin + threadIdx.x % kWarpSize + r * kWarpSize;
    values[r] = d < dim ? row[d] : 0.0f;
  }
}

// What is read of a row is under way before its gradients are needed.
template <int kRegisters, typename Word>
__device__ void step_adagrad(const UpdateRows& args, const Word* positions, int64_t row,
                             int64_t first, int64_t last) {
  constexpr int64_t kColumns = kRegisters * kWarpSize;  // of which a pass has the sums in registers
  float* w = args.weight + row * args.weight_stride;
  float before[kRegisters];
  float g[kRegisters];
  read_row(w, args.dim, 0, before);
  // One lane alone reads what it will write.
  const bool first_lane = threadIdx.x % kWarpSize == 0;
  const float own = first_lane ? args.first[row] : 0.0f;
  float sum = 0;
  for (int64_t begin = 0; begin < args.dim; begin += kColumns) {
    sum_run(args, positions, first, last, begin, g);
    add_squares(g, sum);
  }
  const float mean = add_partial_sums(sum) / static_cast<float>(args.dim);
  const float total = __shfl_sync(kFullWarp, own, 0) + mean;
  if (first_lane) args.first[row] = total;
  if (total == 0) return;
  const float step = args.step_size / (sqrtf(total) + args.eps);
  for (int64_t begin = 0; begin < args.dim; begin += kColumns) {
    if (args.dim > kColumns) {  // else both are there already
      read_row(w, args.dim, begin, before);
      sum_run(args, positions, first, last, begin, g);
    }
#pragma unroll
    for (int r = 0; r < kRegisters; ++r) {
      const int64_t d = begin + threadIdx.x % kWarpSize + r * kWarpSize;
      if (d < args.dim) w[d] = before[r] - step * g[r];
    }
  }
}

template <int kRegisters, typename Word>
__device__ void step_adam(const UpdateRows& args, const Word* positions, int64_t row, int64_t first,
                          int64_t last) {
  float* w = args.weight + row * args.weight_stride;
  float* moments = args.first + row * args.dim;
  float* squares = args.second + row * args.dim;
  for (int64_t begin = 0; begin < args.dim; begin += kRegisters * kWarpSize) {
    float before[kRegisters], m[kRegisters], v[kRegisters], g[kRegisters];
    read_row(w, args.dim, begin, before);
    read_row(moments, args.dim, begin, m);
    read_row(squares, args.dim, begin, v);
    sum_run(args, positions, first, last, begin, g);
#pragma unroll
    for (int r = 0; r < kRegisters; ++r) {
      const int64_t d = begin + threadIdx.x % kWarpSize + r * kWarpSize;
      if (d >= args.dim) break;
      m[r] += args.rate1 * (g[r] - m[r]);
      v[r] += args.rate2 * (g[r] * g[r] - v[r]);
      moments[d] = m[r];
      squares[d] = v[r];
      w[d] = before[r] - args.step_size * m[r] / (sqrtf(v[r]) + args.eps);
    }
  }
}

// A warp for each sorted gradient; those that begin a run work. Two blocks a multiprocessor, and
// ptxas spills nothing for the sake of more.
template <UpdateRule kRule, int kRegisters, typename Word>
__global__ void __launch_bounds__(kThreads, 2)
    step_rows(UpdateRows args, const Word* rows, const Word* positions, const int* refused) {
  const int64_t first = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / kWarpSize;
  if (first >= args.count || *refused) return;
  // One load has the row, the one before and those that follow.
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int64_t at = first - 1 + lane;
  const Word near = at >= 0 && at < args.count ? rows[at] : 0;
  const Word row = __shfl_sync(kFullWarp, near, 1);
  if (first > 0 && __shfl_sync(kFullWarp, near, 0) == row) return;
  int same = __popc(__ballot_sync(kFullWarp, lane >= 1 && at < args.count && near == row));
  int64_t last = first + same;
  for (bool more = same == kWarpSize - 1; more; more = same == kWarpSize) {
    const int64_t next = last + lane;
    same = __popc(__ballot_sync(kFullWarp, next < args.count && rows[next] == row));
    last += same;
  }
  if constexpr (kRule == UpdateRule::kRowwiseAdagrad) {
    step_adagrad<kRegisters>(args, positions, static_cast<int64_t>(row), first, last);
  } else {
    step_adam<kRegisters>(args, positions, static_cast<int64_t>(row), first, last);
  }
}

template <typename Word>
struct Memory {
  int* refused = nullptr;
  Word *rows = nullptr, *sorted_rows = nullptr;
  Word *positions = nullptr, *sorted_positions = nullptr;
  SortPairs<Word, Word> pairs;
  void* scratch = nullptr;
  int64_t scratch_bytes = 0;
  int64_t bytes = 0;

  Memory(const UpdateRows& args, Workspace workspace) {
    refused = workspace.take<int>(1);
    rows = workspace.take<Word>(args.count);
    sorted_rows = workspace.take<Word>(args.count);
    positions = workspace.take<Word>(args.count);
    sorted_positions = workspace.take<Word>(args.count);
    pairs = {rows,
             sorted_rows,
             positions,
             sorted_positions,
             1,
             args.count,
             bits_below(args.num_embeddings)};
    scratch_bytes = sort_pairs_workspace(pairs);
    scratch = workspace.take<uint8_t>(scratch_bytes);
    bytes = workspace.bytes();
  }
};

template <UpdateRule kRule, typename Word>
void update(const UpdateRows& args, const Launch& launch_on) {
  if (args.count == 0) return;
  void* const stream = launch_on.stream;
  const Memory<Word> memory(args, {launch_on.workspace, launch_on.workspace_bytes});
  fill_bytes(memory.refused, 0, sizeof(int), stream);
  launch(check_indices<Word>, blocks_for(args.count, kThreads), kThreads, 0, stream, args.indices,
         args.count, args.num_embeddings, memory.rows, memory.positions, memory.refused,
         launch_on.offenders);
  if (args.dim == 0) return;
  sort_pairs(memory.pairs, memory.scratch, memory.scratch_bytes, stream);
  const auto kernel = args.dim <= 32    ? step_rows<kRule, 1, Word>
                      : args.dim <= 64  ? step_rows<kRule, 2, Word>
                      : args.dim <= 128 ? step_rows<kRule, 4, Word>
                                        : step_rows<kRule, 8, Word>;
  launch(kernel, blocks_for(args.count, kThreads / kWarpSize), kThreads, 0, stream, args,
         memory.sorted_rows, memory.sorted_positions, memory.refused);
}

bool is_narrow(const UpdateRows& args) {
  return args.count <= kNarrow && args.num_embeddings <= kNarrow;
}

}  // namespace

template <UpdateRule kRule>
int64_t update_rows_workspace(const UpdateRows& args) {
  return is_narrow(args) ? Memory<uint32_t>(args, {}).bytes : Memory<uint64_t>(args, {}).bytes;
}

template <UpdateRule kRule>
void update_rows(const UpdateRows& args, const Launch& launch_on) {
  is_narrow(args) ? update<kRule, uint32_t>(args, launch_on)
                  : update<kRule, uint64_t>(args, launch_on);
}

template int64_t update_rows_workspace<UpdateRule::kRowwiseAdagrad>(const UpdateRows&);
template int64_t update_rows_workspace<UpdateRule::kAdam>(const UpdateRows&);
template void update_rows<UpdateRule::kRowwiseAdagrad>(const UpdateRows&, const Launch&);
template void update_rows<UpdateRule::kAdam>(const UpdateRows&, const Launch&);

}  // namespace peel::cuda
