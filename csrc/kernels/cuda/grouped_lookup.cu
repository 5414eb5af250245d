#include <algorithm>
#include <type_traits>

#include "core/packed_rows.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/packed_layers.h"
#include "kernels/cuda/stored_rows.h"

namespace peel::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kTogether = 4;          // reads of a lane on their way at any time
constexpr int64_t kManyWarps = 4096;  // enough to keep a device busy

__device__ float not_a_number() { return __uint_as_float(0x7fc00000u); }

// A warp looks up `warp_pairs` adjacent pairs, at most 32: each lane finds one row, and all read
// the rows, kWidth values a lane at a time.
template <typename Reader, int kWidth, typename Index>
__global__ void __launch_bounds__(kThreads)
    lookup_rows(Reader reader, LookupPairs<Index> pairs, int warp_pairs, float* out,
                uint64_t* offenders) {
  const float* prepared = reader.prepare();
  const int lane = static_cast<int>(threadIdx.x % kWarpSize);
  const int64_t warp = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarpSize;
  const int64_t first = warp * warp_pairs;
  if (first >= pairs.count) return;
  const int here = static_cast<int>(min(int64_t{warp_pairs}, pairs.count - first));
  FoundRow own;
  if (lane < here) own = find_row(reader.table, pairs, first + lane, offenders);
  const int parts = static_cast<int>(reader.table.geometry.dim) / kWidth;  // of a row
  if (parts == 0) return;
  const int total = here * parts;
  out += first * reader.table.geometry.dim;
  const int rows_a_step = kWarpSize / parts;
  const int parts_a_step = kWarpSize % parts;
  int pair = lane / parts;
  int part = lane % parts;
  for (int begin = 0; begin < total; begin += kWarpSize * kTogether) {
    Values<kWidth> values[kTogether];
    for (int i = 0; i < kTogether; ++i) {
      const FoundRow found = shuffle(own, pair < here ? pair : 0);
      if (begin + i * kWarpSize + lane < total) {
        values[i] = found.row < 0 ? fill<kWidth>(not_a_number())
                                  : reader.template read<kWidth>(found, part * kWidth, prepared);
      }
      pair += rows_a_step;
      part += parts_a_step;
      if (part >= parts) {
        part -= parts;
        ++pair;
      }
    }
    for (int i = 0; i < kTogether; ++i) {
      const int at = begin + i * kWarpSize + lane;
      if (at < total) store(out + int64_t{at} * kWidth, values[i]);
    }
  }
}

// Pairs and columns of a block that turns decoded rows, and coordinates that it takes at a time.
constexpr int kTurnedPairs = 32;
constexpr int kTurnedColumns = 128;
constexpr int kTurnedSteps = 32;

// out[m, j] = sum over k ascending of row[m, k] * rotation[j, k], every product and sum rounded.
// Sums begin with -0, to which any product adds up to itself.
template <typename Reader, typename Index>
__global__ void __launch_bounds__(kThreads)
    lookup_turned_rows(Reader reader, LookupPairs<Index> pairs, float* out, uint64_t* offenders) {
  constexpr int kPairs = kTurnedPairs / kWarps;         // of a thread
  constexpr int kColumns = kTurnedColumns / kWarpSize;  // of a thread
  __shared__ float rows[kTurnedPairs][kTurnedSteps];
  __shared__ float turns[kTurnedSteps][kTurnedColumns + 1];
  const float* prepared = reader.prepare();
  const int dim = static_cast<int>(reader.table.geometry.dim);
  const int lane = static_cast<int>(threadIdx.x % kWarpSize);
  const int warp = static_cast<int>(threadIdx.x / kWarpSize);
  const int64_t first = int64_t{blockIdx.x} * kTurnedPairs;
  const int column = static_cast<int>(blockIdx.y) * kTurnedColumns;
  FoundRow own;  // lane p of every warp has pair p
  if (first + lane < pairs.count) own = find_row(reader.table, pairs, first + lane, offenders);
  float sums[kPairs][kColumns];
  for (int p = 0; p < kPairs; ++p) {
    for (int q = 0; q < kColumns; ++q) sums[p][q] = -0.0f;
  }
  for (int begin = 0; begin < dim; begin += kTurnedSteps) {
    const int k = begin + lane;
    for (int p = warp * kPairs; p < (warp + 1) * kPairs; ++p) {
      const FoundRow found = shuffle(own, p);
      rows[p][lane] =
          found.row < 0 || k >= dim ? 0.0f : reader.template read<1>(found, k, prepared).at[0];
    }
    for (int j = warp; j < kTurnedColumns; j += kWarps) {
      const bool there = column + j < dim && k < dim;
      turns[lane][j] = there ? reader.table.rotation[int64_t{column + j} * dim + k] : 0.0f;
    }
    __syncthreads();
    for (int step = 0; step < kTurnedSteps && begin + step < dim; ++step) {
      for (int q = 0; q < kColumns; ++q) {
        const float turn = turns[step][lane + q * kWarpSize];
        for (int p = 0; p < kPairs; ++p) {
          sums[p][q] = __fadd_rn(sums[p][q], __fmul_rn(rows[warp * kPairs + p][step], turn));
        }
      }
    }
    __syncthreads();
  }
  for (int p = 0; p < kPairs; ++p) {
    const FoundRow found = shuffle(own, warp * kPairs + p);
    const int64_t m = first + warp * kPairs + p;
    for (int q = 0; q < kColumns; ++q) {
      const int j = column + lane + q * kWarpSize;
      if (m < pairs.count && j < dim)
        out[m * dim + j] = found.row < 0 ? not_a_number() : sums[p][q];
    }
  }
}

// One coordinate of row `row` of an item group.
__device__ float packed_value(const PackedTable& table, const PackedItemGroup& item_group,
                              int64_t row, int64_t d) {
  const Geometry& geometry = table.geometry;
  const int64_t first = row / kPackedTileRows * kPackedTileRows;
  const int64_t width = min(kPackedTileRows, item_group.rows - first);  // rows of the tile
  const int64_t lane = row - first;
  if (geometry.layout == Layout::kPlanes) {
    const int bits = geometry.bits_of(item_group.held);
    if (bits == 0) return 0.0f;
    unsigned code = 0;
    for (int32_t layer = 0, bit = 0; bit < bits; ++layer) {
      const uint8_t* at =
          packed_layer(table, item_group, layer, first).pieces + d / 8 * width + lane;
      for (int32_t i = 0; i < geometry.layer_bits[layer]; ++i, ++bit) {
        code = code << 1 |
               (static_cast<unsigned>(at[i * geometry.plane_bytes() * width]) >> d % 8 & 1u);
      }
    }
    const float level = table.levels[(1 << bits) - 2 + static_cast<int>(code)];
    return __fmul_rn(level, half_at(packed_layer(table, item_group, 0, 0).scales, row));
  }
  const auto layer = static_cast<int32_t>(d / geometry.block_dim);
  if (!((item_group.held >> layer) & 1u)) return 0.0f;
  const PackedLayer there = packed_layer(table, item_group, layer, first);
  const int64_t at = (d - geometry.layer_begin(layer)) * width + lane;
  switch (geometry.value_type) {
    case ValueType::kFloat32:
      return reinterpret_cast<const float*>(there.pieces)[at];
    case ValueType::kFloat16:
      return half_at(there.pieces, at);
    default:
      return __fmul_rn(static_cast<float>(static_cast<int8_t>(there.pieces[at])),
                       half_at(there.scales, row));
  }
}

// A warp looks up one pair: its lanes search one item group each.
template <typename Index>
__global__ void __launch_bounds__(kThreads)
    lookup_packed_rows(PackedTable table, LookupPairs<Index> pairs, float* out,
                       uint64_t* offenders) {
  const int lane = static_cast<int>(threadIdx.x % kWarpSize);
  const int64_t m = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarpSize;
  if (m >= pairs.count) return;
  const auto id = static_cast<int64_t>(pairs.indices[m]);
  const int64_t user_group = pairs.group_at(m);
  const bool sound = id >= 0 && id < table.num_embeddings && user_group == 0;
  if (lane == 0 && !(id >= 0 && id < table.num_embeddings)) report(offenders, kIndices, m, id);
  if (lane == 0 && user_group != 0) report(offenders, kGroups, m, user_group);
  int64_t item_group = -1;
  int64_t row = -1;
  for (int64_t begin = 0; sound && begin < table.num_item_groups; begin += kWarpSize) {
    const int64_t c = begin + lane;
    int64_t found = -1;
    if (c < table.num_item_groups) {
      found = find_in_item_group(table, c, c == 0 ? 0 : table.directory[c - 1].row_end, id);
    }
    const unsigned there = __ballot_sync(kFullWarp, found >= 0);
    if (!there) continue;
    item_group = begin + __ffs(there) - 1;
    row = __shfl_sync(kFullWarp, found, __ffs(there) - 1);
    break;
  }
  PackedItemGroup of_row = {};
  if (row >= 0) of_row = packed_item_group(table, item_group);
  for (int64_t d = lane; d < table.geometry.dim; d += kWarpSize) {
    const float absent = sound ? 0.0f : not_a_number();
    out[m * table.geometry.dim + d] = row < 0 ? absent : packed_value(table, of_row, row, d);
  }
}

}  // namespace

template <typename Index>
int64_t grouped_lookup_workspace(const StoreTable&, const LookupPairs<Index>&) {
  return 0;
}

template <typename Index>
void grouped_lookup(const StoreTable& table, const LookupPairs<Index>& pairs, float* out,
                    const Launch& launch) {
  with_reader(table, [&](const auto& reader) {
    using Reader = std::decay_t<decltype(reader)>;
    const bool dense = table.geometry.layout == Layout::kDense;
    if (table.rotation && !dense) {
      const dim3 grid(blocks_for(pairs.count, kTurnedPairs),
                      blocks_for(std::max<int64_t>(table.geometry.dim, 1), kTurnedColumns));
      cuda::launch(lookup_turned_rows<Reader, Index>, grid, kThreads, 0, launch.stream, reader,
                   pairs, out, launch.offenders);
      return;
    }
    // Few pairs are spread over the device, many share the finding of their rows.
    const auto warp_pairs = static_cast<int>(
        std::min<int64_t>(kWarpSize, std::max<int64_t>(1, pairs.count / kManyWarps)));
    const bool four = reader.can_read_four() && is_aligned(out, 16);
    cuda::launch(four ? lookup_rows<Reader, 4, Index> : lookup_rows<Reader, 1, Index>,
                 blocks_for(pairs.count, int64_t{warp_pairs} * kWarps), kThreads, 0, launch.stream,
                 reader, pairs, warp_pairs, out, launch.offenders);
  });
}

template <typename Index>
int64_t grouped_lookup_workspace(const PackedTable&, const LookupPairs<Index>&) {
  return 0;
}

template <typename Index>
void grouped_lookup(const PackedTable& table, const LookupPairs<Index>& pairs, float* out,
                    const Launch& launch) {
  cuda::launch(lookup_packed_rows<Index>, blocks_for(pairs.count, kWarps), kThreads, 0,
               launch.stream, table, pairs, out, launch.offenders);
}

#define PEEL_INSTANTIATE(Index)                                                             \
  template int64_t grouped_lookup_workspace(const StoreTable&, const LookupPairs<Index>&);  \
  template void grouped_lookup(const StoreTable&, const LookupPairs<Index>&, float*,        \
                               const Launch&);                                              \
  template int64_t grouped_lookup_workspace(const PackedTable&, const LookupPairs<Index>&); \
  template void grouped_lookup(const PackedTable&, const LookupPairs<Index>&, float*,       \
                               const Launch&);
PEEL_INSTANTIATE(int32_t)
PEEL_INSTANTIATE(int64_t)

}  // namespace peel::cuda
