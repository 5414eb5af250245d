// packed_tiles: the rows of a packed table, a tile of kTileRows at a time, decoded, scored or
// bounded. For what goes through all rows: gathered_score, folding in a user, similar rows.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/packed_rows.h"
#include "core/table.h"
#include "simd/primitives.h"

namespace peel {

static_assert(simd::kTileRows == kPackedTileRows, "packed tiles are loaded as they lie");

// Room for a decoded tile, from the start of a cache line: vectors as wide as one are then read
// from one.
class TileValues {
 public:
  explicit TileValues(int64_t count) : room_(static_cast<size_t>(count) + kLine) {
    void* from = room_.data();
    size_t space = room_.size() * sizeof(float);
    data_ = static_cast<float*>(std::align(kLine * sizeof(float), sizeof(float), from, space));
  }
  TileValues(const TileValues&) = delete;
  float* data() { return data_; }

 private:
  static constexpr size_t kLine = 16;  // floats
  std::vector<float> room_;
  float* data_;
};

// Adjacent coordinates that a tile holds; the rest of its rows is zero.
struct Run {
  int64_t begin = 0;
  int64_t width = 0;
};

// One tile, decoded. `values` holds the coordinates of all runs, one after another.
struct LoadedTile {
  int64_t count = 0;  // rows
  int64_t num_runs = 0;
  Run runs[kMaxLayers];
  const float* values = nullptr;
};

// A row in planes: where its tile lies, and which of its rows it is.
struct PlaneRow {
  const uint8_t* planes[kMaxBits];
  int bits;
  const uint8_t* scale;  // fp16
  int64_t lane;
  int64_t item_group;
  const uint8_t* base;  // of the item group
  int64_t row;          // in it
};

class PackedTiles {
 public:
  PackedTiles(const PackedTable& table, const simd::Primitives& isa);
  const PackedTable& table() const { return table_; }
  const simd::Primitives& isa() const { return isa_; }
  int64_t dim() const { return table_.geometry.dim; }
  int64_t count() const { return num_tiles_; }
  int64_t num_rows() const { return num_rows_; }

  // Where the row at a position in the order of the file is.
  struct RowPlace {
    int64_t tile;
    int64_t lane;
  };
  RowPlace place_of(int64_t row) const;

  class Reader {
   public:
    explicit Reader(const PackedTiles& tiles);
    void enter(int64_t tile);
    // Asks for what bounding the scores of a tile a few ahead will read.
    void prefetch_ahead();
    // In planes: bits of a code here, and which rows' scores may reach a threshold, as
    // simd::Primitives::bound_tile has it.
    int bits() const { return bits_; }
    bool rows_apart() const { return bits_ > 0; }  // whether `row` may be asked for
    uint32_t bound(const uint8_t* steps, float step, float base, float threshold) const;
    // In columns of int8 values, as simd::Primitives::bound_int8_tile has it.
    uint32_t bound_int8(const simd::Int8User& user, float threshold) const;
    const LoadedTile& load();
    const LoadedTile& loaded() const { return loaded_; }
    int64_t count() const { return loaded_.count; }
    // scores[u, r] of the tile's rows; of lanes beyond them anything.
    void dot(const float* users, int64_t num_users, int64_t user_stride, float* scores);
    int64_t id(int64_t r) const;
    // In planes, of a tile of kTileRows rows: one of them, to be scored among others later.
    PlaneRow row(int64_t r) const;

   private:
    // An item group of tiles_.item_groups_, and where it lies.
    struct Found {
      size_t item_group = ~size_t{0};
      const uint8_t* base = nullptr;
      ItemGroupBytes bytes;
    };

    // A tile in its item group. Moving on to the next is cheap.
    struct Place {
      int64_t tile = -1;
      int64_t end_tile = 0;  // of the item group
      size_t item_group = 0;
      int64_t first = 0;  // row of the item group
      const Found* found = nullptr;
    };

    // A layer held by the item group, in columns.
    struct HeldLayer {
      const uint8_t* pieces;
      int64_t piece_bytes;
      const uint8_t* scales;  // of int8 values
      int64_t begin;
      int64_t width;
    };

    // What bounding reads of the tiles of an item group: `bytes` from a place that grows by
    // `stride` with the tile.
    struct Stream {
      const uint8_t* from;
      int64_t stride;
      int64_t bytes;
    };

    // True where the item group is another than before.
    bool move(Place& place, int64_t to) {
      const bool next = to == place.tile + 1 && to < place.end_tile;
      if (!next) return move_away(place, to);
      place.tile = to;
      place.first += simd::kTileRows;
      return false;
    }
    bool move_away(Place& place, int64_t to);
    const Found& find(size_t item_group);
    void enter_item_group();
    void find_streams();
    const uint8_t* whole_lanes(const uint8_t* from, int64_t elements, int64_t size, int64_t at);
    void find_planes();
    void find_int8_layers();
    void load_layer(const HeldLayer& layer, float* to);
    void dot_loaded(const float* users, int64_t num_users, int64_t user_stride, float* scores);
    void dot_in_place(const float* users, int64_t num_users, int64_t user_stride, float* scores);

    const PackedTiles& tiles_;
    const Geometry& geometry_;
    Place here_, ahead_;
    // More than there are item groups from the tile that is read to the one asked for, so that each
    // is looked for once.
    static constexpr size_t kFound = 8;
    Found found_[kFound];
    HeldLayer layers_[kMaxLayers];
    int64_t num_layers_ = 0;
    Stream streams_[2 * kMaxLayers];  // of the item group ahead
    int64_t num_streams_ = 0;
    int bits_ = 0;
    const uint8_t* planes_[kMaxBits] = {};
    float scales_[simd::kTileRows] = {};
    simd::Int8Layer int8_layers_[kMaxLayers];
    std::vector<uint8_t> widened_;  // elements and scales of a tile of fewer rows
    TileValues values_;
    LoadedTile loaded_;
  };

 private:
  struct ItemGroup {
    int64_t index;
    int64_t rows;
    int64_t first_tile;
    int64_t first_row;
    uint64_t held;  // its layers
  };
  const PackedTable& table_;
  const simd::Primitives& isa_;
  std::vector<ItemGroup> item_groups_;  // those with rows and blocks
  int64_t num_tiles_ = 0;
  int64_t num_rows_ = 0;
};

}  // namespace peel
