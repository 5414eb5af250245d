// Where gathered_score finds its rows on a CUDA device: sources that cut them into slots of up to
// 32 rows, one for each lane of a warp.
//
//   Place move(place, slot)    a slot's place, from that of an earlier one, or of start()
//   int64_t id(place, lane)    of a row, or -1 where it cannot be had
//   for_values(place, lane, begin, end, shared, take)
//                              calls take(d, value) for the coordinates held of [begin, end), which
//                              are whole bytes of planes, in ascending order
// prepare() is called by all threads of a block; for_values takes what it returns.
#pragma once

#include "core/packed_rows.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/packed_layers.h"
#include "kernels/cuda/score_bounds.h"
#include "kernels/gathered_score.h"

namespace peel::cuda {

constexpr int kSlotRows = kWarpSize;
static_assert(kPackedTileRows == kSlotRows, "a packed tile is a slot");

class DenseSlots {
 public:
  struct Place {
    int64_t first;
    int count;
  };

  explicit DenseSlots(const DenseRows& rows)
      : rows_(rows),
        total_(rows.candidates ? rows.num_candidates : rows.num_embeddings),
        four_(rows.weight_stride % 4 == 0 && reinterpret_cast<uintptr_t>(rows.weight) % 16 == 0) {}
  PEEL_HD int64_t num_slots() const { return (total_ + kSlotRows - 1) / kSlotRows; }
  PEEL_HD int dim() const { return static_cast<int>(rows_.dim); }
  static constexpr bool kHasAllCoordinates = true;
  static constexpr bool kHasBounds = false;

  __device__ const float* prepare() const { return nullptr; }
  __device__ Place start(int64_t) const { return {0, 0}; }
  __device__ Place move(const Place&, int64_t slot) const {
    const int64_t first = slot * kSlotRows;
    return {first, static_cast<int>(min(int64_t{kSlotRows}, total_ - first))};
  }
  __device__ int64_t id(const Place& place, int lane) const {
    const int64_t id = rows_.candidates ? rows_.candidates[place.first + lane] : place.first + lane;
    return id >= 0 && id < rows_.num_embeddings ? id : -1;
  }
  template <typename Take>
  __device__ void for_values(const Place& place, int lane, int begin, int end, const float*,
                             Take&& take) const {
    const int64_t from = id(place, lane);
    if (from < 0) return;
    const float* row = rows_.weight + from * rows_.weight_stride;
    int d = begin;
    for (; four_ && d + 4 <= end; d += 4) {
      const float4 four = *reinterpret_cast<const float4*>(row + d);
      take(d, four.x);
      take(d + 1, four.y);
      take(d + 2, four.z);
      take(d + 3, four.w);
    }
    for (; d < end; ++d) take(d, row[d]);
  }

 private:
  DenseRows rows_;
  int64_t total_;
  bool four_;
};

// Item group c, whose first row is row f of the table, has the slots from f / 32 + c on: at least
// as many as it has tiles, without a sum over all item groups before it.
class PackedSlots {
 public:
  struct Place {
    PackedItemGroup item_group;
    int64_t next_slot;  // the first one of the next item group
    int64_t first;      // row of the item group
    int count;
  };

  explicit PackedSlots(const PackedTable& table) : table_(table) {}
  PEEL_HD int64_t num_slots() const { return table_.num_rows / kSlotRows + table_.num_item_groups; }
  PEEL_HD int dim() const { return static_cast<int>(table_.geometry.dim); }
  static constexpr bool kHasAllCoordinates = false;
  static constexpr bool kHasBounds = true;

  __device__ const float* prepare() const {
    constexpr int kNumLevels = 510;
    __shared__ float levels[kNumLevels];
    const bool planes = table_.geometry.layout == Layout::kPlanes;
    for (unsigned i = threadIdx.x; planes && i < kNumLevels; i += blockDim.x) {
      levels[i] = table_.levels[i];
    }
    __syncthreads();
    return levels;
  }
  const PackedTable& table() const { return table_; }

  // Where the planes of the place's item group lie, if there are few enough to bound scores by; of
  // no bits if not.
  __device__ BoundPlanes bound_planes(const Place& place, const ScoreBound& bound) const {
    const Geometry& geometry = table_.geometry;
    BoundPlanes found = {};
    if (geometry.layout != Layout::kPlanes) return found;
    const int bits = geometry.bits_of(place.item_group.held);
    if (bits < 1 || bits > kBoundBits) return found;
    found.bits = bits;
    found.tables = *reinterpret_cast<const uint4*>(bound.steps[found.bits]);
    const uint8_t* from = nullptr;
    int layer = -1;
    int left = 0;  // planes of the layer
    for (int i = 0; i < kBoundBits; ++i) {
      found.planes[i] = table_.bytes;  // not read where there is none
      if (i < kBoundBits - found.bits) continue;
      if (left == 0) {
        left = geometry.layer_bits[++layer];
        from = packed_layer(table_, place.item_group, layer, 0).pieces;
      }
      found.planes[i] = from;
      found.layer_bits |= static_cast<unsigned>(geometry.layer_bits[layer]) << (8 * i);
      from += geometry.plane_bytes() * kSlotRows;
      --left;
    }
    found.scales = packed_layer(table_, place.item_group, 0, 0).scales;
    return found;
  }
  // The place before the first one of a run of slots.
  __device__ Place start(int64_t slot) const {
    int64_t low = 0;
    int64_t high = table_.num_item_groups;
    while (low + 1 < high) {
      const int64_t middle = low + (high - low) / 2;
      if (first_slot(middle) <= slot) {
        low = middle;
      } else {
        high = middle;
      }
    }
    return enter(low);
  }
  __device__ Place move(Place place, int64_t slot) const {
    while (slot >= place.next_slot) place = enter(place.item_group.index + 1);
    place.first = (slot - first_slot(place.item_group.index)) * kSlotRows;
    const int64_t rest = place.item_group.held == 0 ? 0 : place.item_group.rows - place.first;
    place.count = static_cast<int>(max(int64_t{0}, min(int64_t{kSlotRows}, rest)));
    return place;
  }
  __device__ int64_t id(const Place& place, int lane) const {
    const uint8_t* base =
        table_.bytes + kBlockAlignment * int64_t{place.item_group.block_offsets[0]};
    return packed_row_id(table_, place.item_group.index, base, place.first + lane);
  }
  template <typename Take>
  __device__ void for_values(const Place& place, int lane, int begin, int end, const float* levels,
                             Take&& take) const {
    if (table_.geometry.layout == Layout::kColumns) {
      for_columns(place, lane, begin, end, take);
      return;
    }
    const int bits = table_.geometry.bits_of(place.item_group.held);
    // clang-format off
    switch (bits) {
      case 1: return for_planes<1>(place, lane, begin, end, levels, take);
      case 2: return for_planes<2>(place, lane, begin, end, levels, take);
      case 3: return for_planes<3>(place, lane, begin, end, levels, take);
      case 4: return for_planes<4>(place, lane, begin, end, levels, take);
      case 5: return for_planes<5>(place, lane, begin, end, levels, take);
      case 6: return for_planes<6>(place, lane, begin, end, levels, take);
      case 7: return for_planes<7>(place, lane, begin, end, levels, take);
      case 8: return for_planes<8>(place, lane, begin, end, levels, take);
      default: return;
    }
    // clang-format on
  }

 private:
  __device__ int64_t first_row(int64_t c) const {
    return c == 0 ? 0 : int64_t{table_.directory[c - 1].row_end};
  }
  __device__ int64_t first_slot(int64_t c) const { return first_row(c) / kSlotRows + c; }
  __device__ Place enter(int64_t c) const {
    return {packed_item_group(table_, c), first_slot(c + 1), 0, 0};
  }

  template <int kBits, typename Take>
  __device__ void for_planes(const Place& place, int lane, int begin, int end, const float* levels,
                             Take&& take) const {
    const Geometry& geometry = table_.geometry;
    const uint8_t* planes[kBits];
    const uint8_t* from = nullptr;
    int layer = -1;
    int left = 0;  // planes of the layer
    for (int bit = 0; bit < kBits; ++bit) {
      if (left == 0) {
        left = geometry.layer_bits[++layer];
        from = packed_layer(table_, place.item_group, layer, place.first).pieces + lane;
      }
      planes[bit] = from;
      from += geometry.plane_bytes() * place.count;
      --left;
    }
    const float scale =
        half_at(packed_layer(table_, place.item_group, 0, 0).scales, place.first + lane);
    levels += (1 << kBits) - 2;
    const auto each_byte = [&](int d, auto&& take_coordinate) {
      unsigned bytes[kBits];
      for (int bit = 0; bit < kBits; ++bit) bytes[bit] = planes[bit][d / 8 * place.count];
      for (int half = 0; half < 8; half += 4) {
        unsigned codes = 0;  // byte i is the code of coordinate d + half + i
        for (int bit = 0; bit < kBits; ++bit) {
          // The products put bit i of four at bit 8 i, among others.
          codes = codes << 1 | ((bytes[bit] >> half & 15u) * 0x00204081u & 0x01010101u);
        }
        for (int i = 0; i < 4; ++i) {
          take_coordinate(d + half + i, __fmul_rn(levels[codes >> (8 * i) & 0xffu], scale));
        }
      }
    };
    int d = begin;
    for (; d + 8 <= end; d += 8) each_byte(d, take);
    if (d < end) {
      each_byte(d, [&](int at, float value) {
        if (at < end) take(at, value);
      });
    }
  }

  template <typename Take>
  __device__ void for_columns(const Place& place, int lane, int begin, int end, Take&& take) const {
    const Geometry& geometry = table_.geometry;
    const auto block_dim = static_cast<int>(geometry.block_dim);
    for (int layer = begin / block_dim; layer * block_dim < end; ++layer) {
      if (!((place.item_group.held >> layer) & 1u)) continue;
      const PackedLayer there = packed_layer(table_, place.item_group, layer, place.first);
      const int from = max(begin, layer * block_dim);
      const int to = min(end, (layer + 1) * block_dim);
      const int64_t at = int64_t{from - layer * block_dim} * place.count + lane;
      if (geometry.value_type == ValueType::kFloat32) {
        const float* values = reinterpret_cast<const float*>(there.pieces) + at;
        for (int d = from; d < to; ++d, values += place.count) take(d, *values);
      } else if (geometry.value_type == ValueType::kFloat16) {
        const uint16_t* values = reinterpret_cast<const uint16_t*>(there.pieces) + at;
        for (int d = from; d < to; ++d, values += place.count) {
          take(d, __half2float(__ushort_as_half(*values)));
        }
      } else {
        const int8_t* values = reinterpret_cast<const int8_t*>(there.pieces) + at;
        const float scale = half_at(there.scales, place.first + lane);
        for (int d = from; d < to; ++d, values += place.count) {
          take(d, __fmul_rn(static_cast<float>(*values), scale));
        }
      }
    }
  }

  PackedTable table_;
};

}  // namespace peel::cuda
