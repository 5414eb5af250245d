// Packed tables of random rows, on the host and on a device.
#pragma once

#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "core/packed_rows.h"
#include "device_memory.h"

namespace peel {

inline uint16_t random_half(std::mt19937_64& random) {  // of a size between 2^-5 and 2
  return static_cast<uint16_t>(random() % 2 << 15 | (10 + random() % 6) << 10 | random() % 1024);
}

inline std::vector<float> random_floats(std::mt19937_64& random, int64_t count) {
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(random);
  return values;
}

// `count` encoded values.
inline std::vector<uint8_t> random_values(std::mt19937_64& random, ValueType type, int64_t count) {
  std::vector<uint8_t> bytes;
  const auto append = [&bytes](const void* from, size_t size) {
    bytes.resize(bytes.size() + size);
    std::memcpy(bytes.data() + bytes.size() - size, from, size);
  };
  for (int64_t i = 0; i < count; ++i) {
    const float value = std::normal_distribution<float>()(random);
    const uint16_t half = random_half(random);
    const auto byte = static_cast<uint8_t>(random());
    if (type == ValueType::kFloat32) append(&value, sizeof(value));
    if (type == ValueType::kFloat16) append(&half, sizeof(half));
    if (type == ValueType::kInt8) append(&byte, sizeof(byte));
  }
  return bytes;
}

inline Geometry columns(ValueType type, int64_t dim, int64_t block_dim) {
  Geometry geometry;
  geometry.layout = Layout::kColumns;
  geometry.value_type = type;
  geometry.dim = dim;
  geometry.block_dim = block_dim;
  geometry.num_layers = static_cast<int32_t>((dim + block_dim - 1) / block_dim);
  return geometry;
}

inline Geometry planes(int64_t dim, const std::vector<int32_t>& layer_bits) {
  Geometry geometry;
  geometry.layout = Layout::kPlanes;
  geometry.dim = dim;
  for (const int32_t bits : layer_bits) geometry.layer_bits[geometry.num_layers++] = bits;
  return geometry;
}

// The layers held of an item group: in planes the first ones and at least one.
inline uint64_t random_layers(std::mt19937_64& random, const Geometry& geometry) {
  if (geometry.num_layers == 0) return 0;
  const uint64_t all = ~uint64_t{0} >> (kMaxLayers - geometry.num_layers);
  if (geometry.layout == Layout::kPlanes) return all >> random() % geometry.num_layers;
  return random() % 3 == 0 ? all : random() & all;
}

struct RandomPackedTable {
  std::vector<DirectoryEntry> directory;
  std::vector<uint32_t> block_offsets;
  std::vector<uint8_t> bytes, listed_ids;
  std::vector<float> levels;
  PackedTable table;

  // Item groups of `sizes` rows; ids below twice as many as there are, or consecutive.
  RandomPackedTable(std::mt19937_64& random, const Geometry& geometry,
                    const std::vector<int64_t>& sizes, RowIds row_ids, int32_t id_bytes) {
    const int64_t rows = std::accumulate(sizes.begin(), sizes.end(), int64_t{0});
    std::vector<int64_t> ids(static_cast<size_t>(2 * rows));
    std::iota(ids.begin(), ids.end(), 0);
    if (row_ids != RowIds::kConsecutive) std::shuffle(ids.begin(), ids.end(), random);
    table.geometry = geometry;
    table.num_embeddings = 2 * rows;
    table.num_rows = rows;
    table.num_item_groups = static_cast<int64_t>(sizes.size());
    table.row_ids = row_ids;
    table.id_bytes = id_bytes;
    int64_t first = 0;
    for (const int64_t size : sizes) {
      std::sort(ids.begin() + first, ids.begin() + first + size);
      directory.push_back({random_layers(random, geometry),
                           static_cast<uint32_t>(block_offsets.size()),
                           static_cast<uint32_t>(first + size)});
      append_blocks(random, ids.data() + first, size);
      first += size;
    }
    for (int64_t r = 0; r < rows; ++r) put_id(listed_ids, ids[static_cast<size_t>(r)]);
    levels = random_floats(random, 510);
    table.directory = directory.data();
    table.block_offsets = block_offsets.data();
    table.listed_ids = listed_ids.data();
    table.bytes = bytes.data();
    table.levels = levels.data();
  }

 private:
  void put_id(std::vector<uint8_t>& to, int64_t id) const {
    for (int32_t i = 0; i < table.id_bytes; ++i) to.push_back(static_cast<uint8_t>(id >> 8 * i));
  }

  void append_blocks(std::mt19937_64& random, const int64_t* ids, int64_t rows) {
    const Geometry& geometry = table.geometry;
    const bool in_planes = geometry.layout == Layout::kPlanes;
    for (int32_t layer = 0; layer < geometry.num_layers; ++layer) {
      if (!((directory.back().layers >> layer) & 1u)) continue;
      const BlockBytes block = block_bytes(geometry, table.id_bytes, rows, layer);
      const size_t begin = bytes.size();
      block_offsets.push_back(static_cast<uint32_t>(begin / kBlockAlignment));
      if (in_planes && layer == 0) {
        for (int64_t r = 0; r < rows; ++r) put_id(bytes, ids[r]);
      }
      bytes.resize(begin + static_cast<size_t>(block.scales));
      while (bytes.size() < begin + static_cast<size_t>(block.pieces)) {
        const uint16_t scale = random_half(random);
        bytes.push_back(static_cast<uint8_t>(scale));
        bytes.push_back(static_cast<uint8_t>(scale >> 8));
      }
      const int64_t count = rows * block.piece_bytes / element_bytes(geometry);
      const std::vector<uint8_t> pieces =
          random_values(random, in_planes ? ValueType::kInt8 : geometry.value_type, count);
      bytes.insert(bytes.end(), pieces.begin(), pieces.end());
      bytes.resize(begin + static_cast<size_t>(block.end));
    }
  }
};

// Its copy on the device.
class DevicePackedTable {
 public:
  explicit DevicePackedTable(const RandomPackedTable& from)
      : table(from.table),
        directory_(from.directory),
        block_offsets_(from.block_offsets),
        bytes_(from.bytes),
        listed_ids_(from.listed_ids),
        levels_(from.levels) {
    table.directory = directory_.data();
    table.block_offsets = block_offsets_.data();
    table.listed_ids = listed_ids_.data();
    table.bytes = bytes_.data();
    table.levels = levels_.data();
  }
  PackedTable table;

 private:
  DeviceArray<DirectoryEntry> directory_;
  DeviceArray<uint32_t> block_offsets_;
  DeviceArray<uint8_t> bytes_, listed_ids_;
  DeviceArray<float> levels_;
};

// Every layout, value type and way to have ids, with item groups that fill tiles or do not.
template <typename F>
void for_packed_tables(std::mt19937_64& random, int64_t dim, F&& f) {
  const std::vector<int64_t> sizes{33, 1, 64, 31, 0, 5, 32};
  for (const auto type : {ValueType::kFloat32, ValueType::kFloat16, ValueType::kInt8}) {
    const int64_t least = (dim + kMaxLayers - 1) / kMaxLayers;
    const Geometry geometry =
        columns(type, dim, least + static_cast<int64_t>(random() % static_cast<uint64_t>(dim)));
    f(RandomPackedTable(random, geometry, sizes, RowIds::kConsecutive, 2));
    f(RandomPackedTable(random, geometry, sizes, RowIds::kListed, random() % 2 ? 2 : 4));
  }
  std::vector<int64_t> filled = sizes;
  filled.erase(filled.begin() + 4);
  for (const auto& layer_bits : std::vector<std::vector<int32_t>>{{2, 1, 1, 2, 2}, {1, 2}, {8}}) {
    f(RandomPackedTable(random, planes(dim, layer_bits), filled, RowIds::kInBlocks,
                        random() % 2 ? 2 : 4));
  }
}

}  // namespace peel
