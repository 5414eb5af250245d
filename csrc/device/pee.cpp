#include "device/pee.h"

#include <cstring>
#include <stdexcept>
#include <string>

#include "kernels/cpu/row_decoder.h"

namespace peel {
namespace {

constexpr uint64_t kMaxDim = uint64_t{1} << 20;
constexpr uint64_t kMaxRows = uint64_t{1} << 32;

void require(bool condition, const std::string& what) {
  if (!condition) throw std::invalid_argument("not a Personalized Elastic Embedding: " + what);
}

Geometry read_geometry(const PeeHeader& header) {
  require(header.layout == 1 || header.layout == 2, "unknown layout");
  require(header.value_type <= 2, "unknown value type");
  require(header.dim >= 1 && header.dim <= kMaxDim, "dim out of range");
  Geometry geometry;
  geometry.layout = static_cast<Layout>(header.layout);
  geometry.value_type = static_cast<ValueType>(header.value_type);
  geometry.dim = header.dim;
  geometry.num_layers = static_cast<int32_t>(header.num_layers);
  geometry.block_dim = header.block_dim;
  if (geometry.layout == Layout::kColumns) {
    require(header.block_dim >= 1 && header.block_dim <= header.dim, "block_dim out of range");
    const uint64_t layers = (uint64_t{header.dim} + header.block_dim - 1) / header.block_dim;
    require(layers <= kMaxLayers && layers == header.num_layers, "num_layers does not fit dim");
    return geometry;
  }
  require(header.num_layers >= 1 && header.num_layers <= kMaxBits, "num_layers out of range");
  int bits = 0;
  for (uint32_t layer = 0; layer < header.num_layers; ++layer) {
    require(header.layer_bits[layer] >= 1, "a layer without bits");
    geometry.layer_bits[layer] = header.layer_bits[layer];
    bits += header.layer_bits[layer];
  }
  require(bits <= kMaxBits, "more than 8 bits");
  return geometry;
}

void check_item_groups(const PackedTable& table, uint64_t pool_bytes) {
  const int32_t layers = table.geometry.num_layers;
  const uint64_t known = layers == 64 ? ~uint64_t{0} : (uint64_t{1} << layers) - 1;
  uint64_t first = 0;
  for (int64_t c = 0; c < table.num_item_groups; ++c) {
    const DirectoryEntry& entry = table.directory[c];
    require((entry.layers & ~known) == 0, "an unknown layer is held");
    require(entry.row_end >= first, "row counts decrease");
    const auto rows = static_cast<int64_t>(entry.row_end - first);
    first = entry.row_end;
    const ItemGroupBytes bytes = item_group_bytes(table.geometry, table.row_ids, table.id_bytes,
                                                  entry.layers ? rows : 0, entry.layers);
    const uint64_t offset = uint64_t{8} * entry.offset;
    require(offset <= pool_bytes && static_cast<uint64_t>(bytes.end) <= pool_bytes - offset,
            "an item group reaches beyond the end");
    require(table.row_ids != RowIds::kInBlocks || entry.layers || rows == 0, "rows without ids");
  }
  require(first == static_cast<uint64_t>(table.num_rows), "num_rows does not fit the directory");
}

void check_ids(const PackedTable& table) {
  int64_t first = 0;
  for (int64_t c = 0; c < table.num_item_groups; ++c) {
    const int64_t rows = table.directory[c].row_end - first;
    first = table.directory[c].row_end;
    int64_t before = -1;
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t id = packed_row_id(table, c, packed_base(table, c), r);
      require(id > before && id < table.num_embeddings, "row ids out of order or out of range");
      before = id;
    }
  }
}

}  // namespace

PackedTable open_pee(const uint8_t* data, uint64_t size, const float* centroids) {
  require(size >= sizeof(PeeHeader), "shorter than its header");
  require(reinterpret_cast<uintptr_t>(data) % 8 == 0, "not aligned to 8 bytes");
  PeeHeader header;
  std::memcpy(&header, data, sizeof(header));
  require(std::memcmp(header.magic, "PEE1", 4) == 0, "wrong magic");
  for (const uint8_t byte : header.reserved) require(byte == 0, "reserved bytes are not zero");
  PackedTable table;
  table.geometry = read_geometry(header);
  require(header.row_ids <= 2, "unknown kind of row ids");
  require(header.id_bytes == 2 || header.id_bytes == 4, "id_bytes is neither 2 nor 4");
  require(header.num_embeddings <= kMaxRows && header.num_rows <= header.num_embeddings,
          "num_rows out of range");
  table.num_embeddings = static_cast<int64_t>(header.num_embeddings);
  table.num_rows = static_cast<int64_t>(header.num_rows);
  table.num_item_groups = header.num_item_groups;
  table.row_ids = static_cast<RowIds>(header.row_ids);
  table.id_bytes = header.id_bytes;
  table.centroids = centroids;
  const uint64_t directory_bytes = uint64_t{header.num_item_groups} * sizeof(DirectoryEntry);
  const uint64_t listed_bytes =
      table.row_ids == RowIds::kListed
          ? static_cast<uint64_t>(padded(static_cast<int64_t>(header.num_rows * header.id_bytes)))
          : 0;
  require(directory_bytes + listed_bytes <= size - sizeof(PeeHeader),
          "the directory reaches beyond the end");
  table.directory = reinterpret_cast<const DirectoryEntry*>(data + sizeof(PeeHeader));
  const uint8_t* listed = data + sizeof(PeeHeader) + directory_bytes;
  if (table.row_ids == RowIds::kListed) table.listed_ids = listed;
  table.pool = listed + listed_bytes;
  check_item_groups(table, size - sizeof(PeeHeader) - directory_bytes - listed_bytes);
  check_ids(table);
  return table;
}

}  // namespace peel
