#include "kernels/cpu/plane_rows.h"

#include "kernels/cpu/prefetch.h"

namespace peel {

using simd::kTileRows;

PlaneRows::PlaneRows(const PackedTiles& tiles)
    : tiles_(tiles),
      bytes_(static_cast<size_t>(kTileRows * kMaxBits * tiles.table().geometry.plane_bytes())),
      decoded_(static_cast<size_t>(kTileRows * tiles.dim())),
      values_(kTileRows * tiles.dim()) {
  rows_.reserve(kTileRows);
}

void PlaneRows::add(const PlaneRow& row) {
  rows_.push_back(row);
  // Those before were read for the bound.
  for (int bit = simd::kBoundBits; bit < row.bits; ++bit) {
    prefetch_lines(row.planes[bit], kTileRows * tiles_.table().geometry.plane_bytes());
  }
}

void PlaneRows::dot(const float* users, int64_t num_users, int64_t user_stride, float* scores) {
  const int64_t dim = tiles_.dim();
  decode();
  const float* from[kTileRows];
  for (int64_t r = 0; r < count(); ++r) from[r] = decoded_.data() + r * dim;
  tiles_.isa().transpose_tile(from, nullptr, count(), dim, values_.data());
  tiles_.isa().dot_tile(users, num_users, user_stride, values_.data(), dim, false, scores);
}

// Those of as many bits together.
void PlaneRows::decode() {
  const int64_t plane_bytes = tiles_.table().geometry.plane_bytes();
  uint8_t* to = bytes_.data();
  for (int bits = 1; bits <= kMaxBits; ++bits) {
    simd::PlanesRow some[kTileRows];
    int64_t found = 0;
    for (int64_t r = 0; r < count(); ++r) {
      const PlaneRow& row = rows_[static_cast<size_t>(r)];
      if (row.bits != bits) continue;
      some[found++] = {to, row.scale, decoded_.data() + r * tiles_.dim()};
      for (int bit = 0; bit < bits; ++bit) {
        const uint8_t* from = row.planes[bit] + row.lane;
        for (int64_t j = 0; j < plane_bytes; ++j) *to++ = from[j * kTileRows];
      }
    }
    if (found == 0) continue;
    tiles_.isa().decode_planes(some, nullptr, found, bits, levels_of(tiles_.table().levels, bits),
                               tiles_.dim());
  }
}

int64_t PlaneRows::id(int64_t r) const {
  const PlaneRow& row = rows_[static_cast<size_t>(r)];
  return packed_row_id(tiles_.table(), row.item_group, row.base, row.row);
}

}  // namespace peel
