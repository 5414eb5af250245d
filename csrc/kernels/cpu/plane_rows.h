// Rows in planes that lie here and there, scored together: what bounds leave of a tile is a row or
// two, and by the time they are read, all they need has come from memory.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/packed_tiles.h"

namespace peel {

class PlaneRows {
 public:
  explicit PlaneRows(const PackedTiles& tiles);
  bool full() const { return rows_.size() == simd::kTileRows; }
  void add(const PlaneRow& row);
  void clear() { rows_.clear(); }

  // As the readers' of tiles: here the tile is of the rows added.
  int64_t count() const { return static_cast<int64_t>(rows_.size()); }
  void dot(const float* users, int64_t num_users, int64_t user_stride, float* scores);
  int64_t id(int64_t r) const;

 private:
  void decode();

  const PackedTiles& tiles_;
  std::vector<PlaneRow> rows_;
  std::vector<uint8_t> bytes_;  // the planes of the rows
  std::vector<float> decoded_;  // [kTileRows, dim]
  TileValues values_;
};

}  // namespace peel
