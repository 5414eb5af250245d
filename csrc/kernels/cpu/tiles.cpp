#include "kernels/cpu/tiles.h"

#include <cstring>

#include "kernels/cpu/prefetch.h"

namespace peel {
namespace {

using simd::kTileRows;

constexpr int64_t kFewUsers = 4;  // int8 values are decoded anew for every two up to this many

}  // namespace

PackedTiles::PackedTiles(const PackedTable& table, const simd::Primitives& isa)
    : table_(table), isa_(isa) {
  int64_t first = 0;
  for (int64_t c = 0; c < table.num_item_groups; ++c) {
    const int64_t rows = table.directory[c].row_end - first;
    first = table.directory[c].row_end;
    if (table.directory[c].layers == 0 || rows == 0) continue;
    groups_.push_back({c, rows, num_tiles_, num_rows_});
    num_tiles_ += (rows + kTileRows - 1) / kTileRows;
    num_rows_ += rows;
  }
}

PackedTiles::Place PackedTiles::place_of(int64_t row) const {
  const auto after =
      std::upper_bound(groups_.begin(), groups_.end(), row,
                       [](int64_t at, const ItemGroup& g) { return at < g.first_row; });
  const ItemGroup& group = *(after - 1);
  const int64_t own = row - group.first_row;
  return {group.first_tile + own / kTileRows, own % kTileRows};
}

PackedTiles::Reader::Reader(const PackedTiles& tiles)
    : tiles_(tiles),
      geometry_(tiles.table_.geometry),
      widened_(static_cast<size_t>(
          kTileRows * (encoded_row_bytes(geometry_) + geometry_.num_layers * sizeof(uint16_t)))),
      values_(kTileRows * geometry_.dim) {
  loaded_.values = values_.data();
}

void PackedTiles::Reader::enter(int64_t tile) {
  const auto& groups = tiles_.groups_;
  if (base_ == nullptr || tile < groups[group_].first_tile) {
    const auto after =
        std::upper_bound(groups.begin(), groups.end(), tile,
                         [](int64_t at, const ItemGroup& g) { return at < g.first_tile; });
    group_ = static_cast<size_t>(after - groups.begin()) - 1;
    enter_item_group();
  }
  while (group_ + 1 < groups.size() && tile >= groups[group_ + 1].first_tile) {
    ++group_;
    enter_item_group();
  }
  first_ = (tile - groups[group_].first_tile) * kTileRows;
  loaded_.count = std::min(kTileRows, groups[group_].rows - first_);
  if (geometry_.layout == Layout::kPlanes) {
    find_planes();
  } else if (geometry_.value_type == ValueType::kInt8) {
    find_int8_layers();
  }
}

void PackedTiles::Reader::enter_item_group() {
  const PackedTable& table = tiles_.table_;
  const ItemGroup& group = tiles_.groups_[group_];
  held_ = table.directory[group.index].layers;
  base_ = packed_base(table, group.index);
  bytes_ = item_group_bytes(table, group.index, group.rows);
  bits_ = geometry_.layout == Layout::kPlanes ? geometry_.bits_of(held_) : 0;
  loaded_.num_runs = 0;
  if (geometry_.layout == Layout::kPlanes) {
    if (bits_ > 0) loaded_.runs[loaded_.num_runs++] = {0, geometry_.dim};
    return;
  }
  for (int32_t layer = 0; layer < geometry_.num_layers; ++layer) {
    if (!((held_ >> layer) & 1u)) continue;
    const bool joins = layer > 0 && ((held_ >> (layer - 1)) & 1u);
    if (!joins) loaded_.runs[loaded_.num_runs++] = {geometry_.layer_begin(layer), 0};
    loaded_.runs[loaded_.num_runs - 1].width += geometry_.layer_width(layer);
  }
}

// Elements of all rows of the tile, widened into `widened_` at byte `at` where it has fewer rows.
const uint8_t* PackedTiles::Reader::whole_lanes(const uint8_t* from, int64_t elements, int64_t size,
                                                int64_t at) {
  if (loaded_.count == kTileRows) return from;
  uint8_t* to = widened_.data() + at;
  const int64_t row_bytes = loaded_.count * size;
  for (int64_t e = 0; e < elements; ++e) {
    std::memcpy(to + e * kTileRows * size, from + e * row_bytes, static_cast<size_t>(row_bytes));
  }
  return to;
}

void PackedTiles::Reader::find_planes() {
  const int64_t plane_bytes = geometry_.plane_bytes();
  int bit = 0;
  for (int32_t layer = 0; bit < bits_; ++layer) {
    const int64_t count = geometry_.layer_bits[layer];
    const uint8_t* from = whole_lanes(bytes_.pieces[layer] + first_ * bytes_.piece_bytes[layer],
                                      count * plane_bytes, 1, bit * plane_bytes * kTileRows);
    for (int64_t b = 0; b < count; ++b) planes_[bit++] = from + b * plane_bytes * kTileRows;
  }
  const auto* halves = reinterpret_cast<const uint16_t*>(bytes_.row_scales);
  tiles_.isa_.decode_float16(halves + first_, scales_, loaded_.count);
}

uint32_t PackedTiles::Reader::bound(const uint8_t* steps, float step, float base,
                                    float threshold) const {
  return tiles_.isa_.bound_tile(planes_, std::min(bits_, simd::kBoundBits), geometry_.plane_bytes(),
                                steps, step, base, scales_, threshold);
}

uint32_t PackedTiles::Reader::bound_int8(const simd::Int8User& user, float threshold) const {
  return tiles_.isa_.bound_int8_tile(user, int8_layers_, num_int8_layers_, threshold);
}

// Of a tile in columns of int8 values: its layers as they lie.
void PackedTiles::Reader::find_int8_layers() {
  num_int8_layers_ = 0;
  int64_t at = 0;
  for (int32_t layer = 0; layer < geometry_.num_layers; ++layer) {
    if (!((held_ >> layer) & 1u)) continue;
    const int64_t width = geometry_.layer_width(layer);
    const uint8_t* values =
        whole_lanes(bytes_.pieces[layer] + first_ * bytes_.piece_bytes[layer], width, 1, at);
    // The next tile is on its way while this one is worked on; the last may be a copy.
    if (loaded_.count == kTileRows) prefetch(values + width * kTileRows, width * kTileRows);
    at += width * kTileRows;
    const int64_t size = sizeof(uint16_t);
    const uint8_t* scales = whole_lanes(bytes_.scales[layer] + first_ * size, 1, size, at);
    at += size * kTileRows;
    int8_layers_[num_int8_layers_++] = {reinterpret_cast<const int8_t*>(values),
                                        reinterpret_cast<const uint16_t*>(scales),
                                        geometry_.layer_begin(layer), width};
  }
}

void PackedTiles::Reader::dot(const float* users, int64_t num_users, int64_t user_stride,
                              float* scores) {
  const simd::Primitives& isa = tiles_.isa_;
  if (geometry_.layout == Layout::kColumns && geometry_.value_type == ValueType::kInt8 &&
      num_users <= kFewUsers) {
    isa.dot_int8_tile(users, num_users, user_stride, int8_layers_, num_int8_layers_, scores);
    return;
  }
  const LoadedTile& tile = load();
  if (tile.num_runs == 0) std::fill_n(scores, num_users * kTileRows, 0.0f);
  const float* values = tile.values;
  for (int64_t i = 0; i < tile.num_runs; ++i) {
    const Run& run = tile.runs[i];
    isa.dot_tile(users + run.begin, num_users, user_stride, values, run.width, i > 0, scores);
    values += run.width * kTileRows;
  }
}

const LoadedTile& PackedTiles::Reader::load() {
  if (geometry_.layout == Layout::kPlanes) {
    if (bits_ > 0) {
      tiles_.isa_.decode_planes_tile(planes_, bits_,
                                     tiles_.table_.centroids + (int64_t{1} << bits_) - 2, scales_,
                                     values_.data(), geometry_.dim);
    }
    return loaded_;
  }
  float* to = values_.data();
  for (int32_t layer = 0; layer < geometry_.num_layers; ++layer) {
    if (!((held_ >> layer) & 1u)) continue;
    load_layer(layer, to);
    to += geometry_.layer_width(layer) * kTileRows;
  }
  return loaded_;
}

void PackedTiles::Reader::load_layer(int32_t layer, float* to) {
  const int64_t width = geometry_.layer_width(layer);
  const int64_t size = geometry_.value_bytes();
  const uint8_t* from =
      whole_lanes(bytes_.pieces[layer] + first_ * bytes_.piece_bytes[layer], width, size, 0);
  if (geometry_.value_type == ValueType::kFloat32) {
    std::memcpy(to, from, static_cast<size_t>(width * kTileRows) * sizeof(float));
  } else if (geometry_.value_type == ValueType::kFloat16) {
    tiles_.isa_.decode_float16(reinterpret_cast<const uint16_t*>(from), to, width * kTileRows);
  } else {
    const auto* halves = reinterpret_cast<const uint16_t*>(bytes_.scales[layer]);
    tiles_.isa_.decode_float16(halves + first_, scales_, loaded_.count);
    tiles_.isa_.decode_int8_tile(reinterpret_cast<const int8_t*>(from), scales_, to, width);
  }
}

int64_t PackedTiles::Reader::id(int64_t r) const {
  return packed_row_id(tiles_.table_, tiles_.groups_[group_].index, base_, first_ + r);
}

}  // namespace peel
