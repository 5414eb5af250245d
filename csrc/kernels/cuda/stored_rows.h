// Rows of a server's tables on a CUDA device: found and checked for a pair, and read a few
// adjacent coordinates at a time.
#pragma once

#include "core/table.h"
#include "kernels/cuda/device.h"
#include "kernels/grouped_lookup.h"

namespace peel::cuda {

// The row of a pair; row -1 where the pair is an offender.
struct FoundRow {
  int64_t row = -1;   // of the weights, or of the store
  int32_t slot = -1;  // dense: of the refinement, -1 for none
  uint64_t held = 0;  // columns: layers held; planes: bits held
};

__device__ inline FoundRow shuffle(const FoundRow& found, int source) {
  return {__shfl_sync(kFullWarp, found.row, source), __shfl_sync(kFullWarp, found.slot, source),
          __shfl_sync(kFullWarp, found.held, source)};
}

// Finds the row of pair m, and notes what is wrong with it.
template <typename Index>
__device__ FoundRow find_row(const StoreTable& table, const LookupPairs<Index>& pairs, int64_t m,
                             uint64_t* offenders) {
  FoundRow found;
  const auto index = static_cast<int64_t>(pairs.indices[m]);
  const int64_t group = pairs.group_at(m);
  const bool index_there = index >= 0 && index < table.num_embeddings;
  const bool group_there = group >= 0 && group < table.num_groups;
  if (!index_there) report(offenders, kIndices, m, index);
  if (!group_there) report(offenders, kGroups, m, group);
  if (!index_there || !group_there) return found;
  if (table.refinement_slot) {
    found.slot = table.refinement_slot[group * table.num_embeddings + index];
    if (found.slot >= table.num_refined) {
      report(offenders, kRefinementSlot, m, found.slot);
      return found;
    }
  }
  if (table.geometry.layout == Layout::kDense) {
    found.row = index;
    return found;
  }
  const int64_t c = table.item_group[group * table.item_group_stride + index];
  if (c >= table.num_item_groups) {
    report(offenders, kItemGroup, m, c);
    return found;
  }
  if (c >= 0) found.held = static_cast<uint64_t>(table.held[group * table.num_item_groups + c]);
  if (table.geometry.layout == Layout::kPlanes) {
    found.held = static_cast<uint64_t>(table.geometry.bits_of(found.held));
  }
  found.row = found.slot < 0 ? index : table.num_embeddings + found.slot;
  return found;
}

// kWidth adjacent values, one or four, read and written at once.
template <int kWidth>
struct Values {
  static_assert(kWidth == 1 || kWidth == 4, "four floats are the widest access");
  float at[kWidth];
};
template <int kWidth>
__device__ Values<kWidth> load(const float* from) {
  if constexpr (kWidth == 4) {
    const auto* four = reinterpret_cast<const float4*>(from);
    return {four->x, four->y, four->z, four->w};
  } else {
    return {from[0]};
  }
}
template <int kWidth>
__device__ void store(float* to, const Values<kWidth>& values) {
  if constexpr (kWidth == 4) {
    *reinterpret_cast<float4*>(to) = {values.at[0], values.at[1], values.at[2], values.at[3]};
  } else {
    *to = values.at[0];
  }
}
template <int kWidth>
__device__ Values<kWidth> fill(float value) {
  Values<kWidth> values;
  for (int i = 0; i < kWidth; ++i) values.at[i] = value;
  return values;
}

inline bool is_aligned(const void* at, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(at) % static_cast<uintptr_t>(bytes) == 0;
}

// The readers of the layouts. prepare() is called by all threads of a block, and what it returns
// is given to read(found, d, prepared): the values of the coordinates [d, d + kWidth) of a row,
// decoded as the contract says. can_read_four: whether four can be read at once.

struct DenseReader {
  explicit DenseReader(const StoreTable& from) : table(from) {}
  bool can_read_four() const {
    return table.geometry.dim % 4 == 0 && table.weight_stride % 4 == 0 &&
           is_aligned(table.weight, 16) && is_aligned(table.refinement, 16);
  }
  __device__ const float* prepare() const { return nullptr; }
  template <int kWidth>
  __device__ Values<kWidth> read(const FoundRow& found, int d, const float*) const {
    Values<kWidth> values = load<kWidth>(table.weight + found.row * table.weight_stride + d);
    if (found.slot < 0) return values;
    const auto more = load<kWidth>(table.refinement + found.slot * table.geometry.dim + d);
    for (int i = 0; i < kWidth; ++i) values.at[i] = __fadd_rn(values.at[i], more.at[i]);
    return values;
  }
  StoreTable table;
};

template <ValueType kType>
struct ColumnsReader {
  static constexpr int kBytes = kType == ValueType::kFloat32   ? 4
                                : kType == ValueType::kFloat16 ? 2
                                                               : 1;
  explicit ColumnsReader(const StoreTable& from)
      : table(from), block_dim(static_cast<int>(from.geometry.block_dim)) {}
  bool can_read_four() const {
    return table.geometry.dim % 4 == 0 && table.geometry.block_dim % 4 == 0 &&
           table.row_bytes % (4 * kBytes) == 0 && is_aligned(table.store, 4 * kBytes);
  }
  __device__ const float* prepare() const { return nullptr; }
  template <int kWidth>
  __device__ Values<kWidth> read(const FoundRow& found, int d, const float*) const {
    const int layer = d / block_dim;
    if (!((found.held >> layer) & 1u)) return fill<kWidth>(0.0f);
    const uint8_t* from = table.store + found.row * table.row_bytes + int64_t{d} * kBytes;
    if constexpr (kType == ValueType::kFloat32) {
      return load<kWidth>(reinterpret_cast<const float*>(from));
    } else if constexpr (kType == ValueType::kFloat16) {
      return widen_halves<kWidth>(from);
    } else {
      const uint16_t scale = table.scales[found.row * table.scales_per_row + layer];
      return scale_bytes<kWidth>(from, __half2float(__ushort_as_half(scale)));
    }
  }
  template <int kWidth>
  __device__ static Values<kWidth> widen_halves(const uint8_t* from) {
    Values<kWidth> values;
    uint16_t halves[kWidth];
    if constexpr (kWidth == 4) {
      const uint2 four = *reinterpret_cast<const uint2*>(from);
      for (int i = 0; i < 4; ++i) {
        halves[i] = static_cast<uint16_t>((i < 2 ? four.x : four.y) >> (i % 2 * 16));
      }
    } else {
      for (int i = 0; i < kWidth; ++i) halves[i] = reinterpret_cast<const uint16_t*>(from)[i];
    }
    for (int i = 0; i < kWidth; ++i) values.at[i] = __half2float(__ushort_as_half(halves[i]));
    return values;
  }
  template <int kWidth>
  __device__ static Values<kWidth> scale_bytes(const uint8_t* from, float scale) {
    Values<kWidth> values;
    unsigned bytes = *from;
    if constexpr (kWidth == 4) bytes = *reinterpret_cast<const unsigned*>(from);
    for (int i = 0; i < kWidth; ++i) {
      const auto value = static_cast<int8_t>(bytes >> (8 * i));
      values.at[i] = __fmul_rn(static_cast<float>(value), scale);
    }
    return values;
  }
  StoreTable table;
  int block_dim;
};

constexpr int kNumLevels = 510;  // of all widths

struct PlanesReader {
  explicit PlanesReader(const StoreTable& from)
      : table(from), plane_bytes(static_cast<int>(from.geometry.plane_bytes())) {}
  bool can_read_four() const { return table.geometry.dim % 4 == 0; }
  __device__ const float* prepare() const {
    __shared__ float levels[kNumLevels];
    for (unsigned i = threadIdx.x; i < kNumLevels; i += blockDim.x) {
      levels[i] = table.levels[i];
    }
    __syncthreads();
    return levels;
  }
  template <int kWidth>
  __device__ Values<kWidth> read(const FoundRow& found, int d, const float* levels) const {
    const int bits = static_cast<int>(found.held);
    if (bits == 0) return fill<kWidth>(0.0f);
    const uint8_t* from = table.store + found.row * table.row_bytes + d / 8;
    unsigned codes = 0;  // byte i is the code of coordinate d + i
#pragma unroll 1
    for (int first = 0; first < bits; first += kTogether, from += kTogether * plane_bytes) {
      unsigned bytes[kTogether];  // on their way together
      for (int i = 0; i < kTogether; ++i) bytes[i] = first + i < bits ? from[i * plane_bytes] : 0;
      for (int i = 0; i < kTogether; ++i) {
        if (first + i >= bits) continue;
        const unsigned some = (bytes[i] >> (d % 8)) & ((1u << kWidth) - 1);
        // The products put bit i of four at bit 8 i, among others.
        codes = codes << 1 | (kWidth == 1 ? some : some * 0x00204081u & 0x01010101u);
      }
    }
    const uint16_t half = table.scales[found.row * table.scales_per_row];
    const float scale = __half2float(__ushort_as_half(half));
    const float* of_bits = levels + (1 << bits) - 2;
    Values<kWidth> values;
    for (int i = 0; i < kWidth; ++i) {
      values.at[i] = __fmul_rn(of_bits[codes >> (8 * i) & 0xff], scale);
    }
    return values;
  }
  static constexpr int kTogether = 4;
  StoreTable table;
  int plane_bytes;
};

// Calls f with the reader of the table's layout and type.
template <typename F>
void with_reader(const StoreTable& table, F&& f) {
  if (table.geometry.layout == Layout::kDense) return f(DenseReader(table));
  if (table.geometry.layout == Layout::kPlanes) return f(PlanesReader(table));
  switch (table.geometry.value_type) {
    case ValueType::kFloat32:
      return f(ColumnsReader<ValueType::kFloat32>(table));
    case ValueType::kFloat16:
      return f(ColumnsReader<ValueType::kFloat16>(table));
    case ValueType::kInt8:
      return f(ColumnsReader<ValueType::kInt8>(table));
  }
}

}  // namespace peel::cuda
