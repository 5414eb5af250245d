#include "kernels/packed_tiles.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "kernels/cpu/prefetch.h"

namespace peel {
namespace {

using simd::kTileRows;

// Up to this many users, values in columns are multiplied where they lie: int8 ones are decoded
// anew for every two users, others are read by the layer.
constexpr int64_t kFewUsers = 4;
// From the tile whose scores are bounded to the one asked for: memory takes longer than a tile.
constexpr int64_t kTilesAhead = 4;

}  // namespace

PackedTiles::PackedTiles(const PackedTable& table, const simd::Primitives& isa)
    : table_(table), isa_(isa) {
  int64_t first = 0;
  for (int64_t c = 0; c < table.num_item_groups; ++c) {
    const int64_t rows = table.directory[c].row_end - first;
    first = table.directory[c].row_end;
    const uint64_t held = table.directory[c].layers;
    if (held == 0 || rows == 0) continue;
    item_groups_.push_back({c, rows, num_tiles_, num_rows_, held});
    num_tiles_ += (rows + kTileRows - 1) / kTileRows;
    num_rows_ += rows;
  }
}

PackedTiles::RowPlace PackedTiles::place_of(int64_t row) const {
  const auto after =
      std::upper_bound(item_groups_.begin(), item_groups_.end(), row,
                       [](int64_t at, const ItemGroup& g) { return at < g.first_row; });
  const ItemGroup& item_group = *(after - 1);
  const int64_t own = row - item_group.first_row;
  return {item_group.first_tile + own / kTileRows, own % kTileRows};
}

PackedTiles::Reader::Reader(const PackedTiles& tiles)
    : tiles_(tiles),
      geometry_(tiles.table_.geometry),
      widened_(static_cast<size_t>(
          kTileRows * (encoded_row_bytes(geometry_) + geometry_.num_layers * sizeof(uint16_t)))),
      values_(kTileRows * geometry_.dim) {
  loaded_.values = values_.data();
}

bool PackedTiles::Reader::move_away(Place& place, int64_t to) {
  const auto& item_groups = tiles_.item_groups_;
  const size_t before = place.item_group;
  const bool first_time = place.tile < 0;
  size_t at = before;
  if (first_time || to < item_groups[at].first_tile) {
    const auto after =
        std::upper_bound(item_groups.begin(), item_groups.end(), to,
                         [](int64_t tile, const ItemGroup& g) { return tile < g.first_tile; });
    at = static_cast<size_t>(after - item_groups.begin()) - 1;
  }
  while (at + 1 < item_groups.size() && to >= item_groups[at + 1].first_tile) ++at;
  const int64_t first_tile = item_groups[at].first_tile;
  const int64_t end_tile = first_tile + (item_groups[at].rows + kTileRows - 1) / kTileRows;
  place = {to, end_tile, at, (to - first_tile) * kTileRows, &find(at)};
  return first_time || at != before;
}

const PackedTiles::Reader::Found& PackedTiles::Reader::find(size_t item_group) {
  Found& found = found_[item_group % kFound];
  if (found.item_group != item_group) {
    const ItemGroup& wanted = tiles_.item_groups_[item_group];
    // Made where it stays: a copy of places for all layers there could be costs more than the rest.
    new (&found) Found{item_group, packed_base(tiles_.table_, wanted.index),
                       item_group_bytes(tiles_.table_, wanted.index, wanted.rows)};
  }
  return found;
}

void PackedTiles::Reader::enter(int64_t tile) {
  if (move(here_, tile)) enter_item_group();
  loaded_.count = std::min(kTileRows, tiles_.item_groups_[here_.item_group].rows - here_.first);
  if (geometry_.layout == Layout::kPlanes) {
    find_planes();
  } else if (geometry_.value_type == ValueType::kInt8) {
    find_int8_layers();
  }
}

void PackedTiles::Reader::prefetch_ahead() {
  if (here_.tile + kTilesAhead >= tiles_.count()) return;
  if (geometry_.layout == Layout::kColumns && geometry_.value_type != ValueType::kInt8) return;
  if (move(ahead_, here_.tile + kTilesAhead)) find_streams();
  const int64_t tile = ahead_.first / kTileRows;
  for (int64_t s = 0; s < num_streams_; ++s) {
    prefetch_lines(streams_[s].from + tile * streams_[s].stride, streams_[s].bytes);
  }
}

void PackedTiles::Reader::find_streams() {
  const bool planes = geometry_.layout == Layout::kPlanes;
  const ItemGroupBytes& bytes = ahead_.found->bytes;
  const uint64_t held = tiles_.item_groups_[ahead_.item_group].held;
  const int64_t scale_bytes = kTileRows * 2;
  num_streams_ = 0;
  int bits = 0;
  for (int32_t layer = 0; layer < geometry_.num_layers && bits < simd::kBoundBits; ++layer) {
    if (!((held >> layer) & 1u)) continue;
    const int64_t stride = kTileRows * bytes.piece_bytes[layer];
    int64_t read = stride;
    if (planes) {
      const int32_t some = std::min(geometry_.layer_bits[layer], simd::kBoundBits - bits);
      read = kTileRows * some * geometry_.plane_bytes();
      bits += some;
    }
    streams_[num_streams_++] = {bytes.pieces[layer], stride, read};
    if (!planes) streams_[num_streams_++] = {bytes.scales[layer], scale_bytes, scale_bytes};
  }
  if (planes) streams_[num_streams_++] = {bytes.row_scales, scale_bytes, scale_bytes};
}

void PackedTiles::Reader::enter_item_group() {
  const uint64_t held = tiles_.item_groups_[here_.item_group].held;
  const ItemGroupBytes& bytes = here_.found->bytes;
  bits_ = geometry_.layout == Layout::kPlanes ? geometry_.bits_of(held) : 0;
  num_layers_ = 0;
  loaded_.num_runs = 0;
  if (geometry_.layout == Layout::kPlanes) {
    if (bits_ > 0) loaded_.runs[loaded_.num_runs++] = {0, geometry_.dim};
    return;
  }
  for (int32_t layer = 0; layer < geometry_.num_layers; ++layer) {
    if (!((held >> layer) & 1u)) continue;
    const int64_t begin = geometry_.layer_begin(layer);
    const int64_t width = geometry_.layer_width(layer);
    layers_[num_layers_++] = {bytes.pieces[layer], bytes.piece_bytes[layer], bytes.scales[layer],
                              begin, width};
    const bool joins = layer > 0 && ((held >> (layer - 1)) & 1u);
    if (!joins) loaded_.runs[loaded_.num_runs++] = {begin, 0};
    loaded_.runs[loaded_.num_runs - 1].width += width;
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
    const uint8_t* from = whole_lanes(
        here_.found->bytes.pieces[layer] + here_.first * here_.found->bytes.piece_bytes[layer],
        count * plane_bytes, 1, bit * plane_bytes * kTileRows);
    for (int64_t b = 0; b < count; ++b) planes_[bit++] = from + b * plane_bytes * kTileRows;
  }
  const auto* halves = reinterpret_cast<const uint16_t*>(here_.found->bytes.row_scales);
  tiles_.isa_.decode_float16(halves + here_.first, scales_, loaded_.count);
}

uint32_t PackedTiles::Reader::bound(const uint8_t* steps, float step, float base,
                                    float threshold) const {
  const int known = std::min(bits_, simd::kBoundBits);
  return tiles_.isa_.bound_tile(planes_, known, geometry_.plane_bytes(), steps, step, base, scales_,
                                threshold);
}

uint32_t PackedTiles::Reader::bound_int8(const simd::Int8User& user, float threshold) const {
  return tiles_.isa_.bound_int8_tile(user, int8_layers_, num_layers_, threshold);
}

// Of a tile in columns of int8 values: its layers as they lie.
void PackedTiles::Reader::find_int8_layers() {
  uint8_t* room = widened_.data();
  for (int64_t l = 0; l < num_layers_; ++l) {
    const HeldLayer& layer = layers_[l];
    const uint8_t* values = layer.pieces + here_.first * layer.piece_bytes;
    const uint8_t* scales = layer.scales + here_.first * 2;
    if (loaded_.count < kTileRows) {
      values = whole_lanes(values, layer.width, 1, room - widened_.data());
      room += layer.width * kTileRows;
      scales = whole_lanes(scales, 1, 2, room - widened_.data());
      room += 2 * kTileRows;
    }
    int8_layers_[l] = {reinterpret_cast<const int8_t*>(values),
                       reinterpret_cast<const uint16_t*>(scales), layer.begin, layer.width};
  }
}

void PackedTiles::Reader::dot(const float* users, int64_t num_users, int64_t user_stride,
                              float* scores) {
  if (geometry_.layout == Layout::kColumns && num_users <= kFewUsers) {
    if (geometry_.value_type == ValueType::kInt8) {
      tiles_.isa_.dot_int8_tile(users, num_users, user_stride, int8_layers_, num_layers_, scores);
      return;
    }
    if (loaded_.count == kTileRows) {
      dot_in_place(users, num_users, user_stride, scores);
      return;
    }
  }
  load();
  dot_loaded(users, num_users, user_stride, scores);
}

void PackedTiles::Reader::dot_loaded(const float* users, int64_t num_users, int64_t user_stride,
                                     float* scores) {
  if (loaded_.num_runs == 0) std::fill_n(scores, num_users * kTileRows, 0.0f);
  const float* values = loaded_.values;
  for (int64_t i = 0; i < loaded_.num_runs; ++i) {
    const Run& run = loaded_.runs[i];
    tiles_.isa_.dot_tile(users + run.begin, num_users, user_stride, values, run.width, i > 0,
                         scores);
    values += run.width * kTileRows;
  }
}

// Of a whole tile of float32 or float16 values: the same bits as after loading it.
void PackedTiles::Reader::dot_in_place(const float* users, int64_t num_users, int64_t user_stride,
                                       float* scores) {
  for (int64_t l = 0; l < num_layers_; ++l) {
    const HeldLayer& layer = layers_[l];
    const uint8_t* values = layer.pieces + here_.first * layer.piece_bytes;
    if (geometry_.value_type == ValueType::kFloat32) {
      tiles_.isa_.dot_tile(users + layer.begin, num_users, user_stride,
                           reinterpret_cast<const float*>(values), layer.width, l > 0, scores);
    } else {
      tiles_.isa_.dot_float16_tile(users + layer.begin, num_users, user_stride,
                                   reinterpret_cast<const uint16_t*>(values), layer.width, l > 0,
                                   scores);
    }
  }
}

PlaneRow PackedTiles::Reader::row(int64_t r) const {
  const int64_t at = here_.first + r;
  PlaneRow row{{},
               bits_,
               here_.found->bytes.row_scales + 2 * at,
               r,
               tiles_.item_groups_[here_.item_group].index,
               here_.found->base,
               at};
  std::copy(planes_, planes_ + bits_, row.planes);
  return row;
}

const LoadedTile& PackedTiles::Reader::load() {
  if (geometry_.layout == Layout::kPlanes) {
    if (bits_ > 0) {
      tiles_.isa_.decode_planes_tile(planes_, bits_, levels_of(tiles_.table_.levels, bits_),
                                     scales_, values_.data(), geometry_.dim);
    }
    return loaded_;
  }
  float* to = values_.data();
  for (int64_t l = 0; l < num_layers_; ++l) {
    load_layer(layers_[l], to);
    to += layers_[l].width * kTileRows;
  }
  return loaded_;
}

void PackedTiles::Reader::load_layer(const HeldLayer& layer, float* to) {
  const uint8_t* from = whole_lanes(layer.pieces + here_.first * layer.piece_bytes, layer.width,
                                    geometry_.value_bytes(), 0);
  const int64_t count = layer.width * kTileRows;
  if (geometry_.value_type == ValueType::kFloat32) {
    std::memcpy(to, from, static_cast<size_t>(count) * sizeof(float));
  } else if (geometry_.value_type == ValueType::kFloat16) {
    tiles_.isa_.decode_float16(reinterpret_cast<const uint16_t*>(from), to, count);
  } else {
    const auto* halves = reinterpret_cast<const uint16_t*>(layer.scales);
    tiles_.isa_.decode_float16(halves + here_.first, scales_, loaded_.count);
    tiles_.isa_.decode_int8_tile(reinterpret_cast<const int8_t*>(from), scales_, to, layer.width);
  }
}

int64_t PackedTiles::Reader::id(int64_t r) const {
  return packed_row_id(tiles_.table_, tiles_.item_groups_[here_.item_group].index,
                       here_.found->base, here_.first + r);
}

}  // namespace peel
