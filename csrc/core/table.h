// How rows are cut into blocks, and the three forms in which kernels meet a table.
#pragma once

#include <cstdint>

#include "core/host_device.h"

namespace peel {

enum class Layout : int32_t { kDense = 0, kColumns = 1, kPlanes = 2 };
enum class ValueType : int32_t { kFloat32 = 0, kFloat16 = 1, kInt8 = 2 };

constexpr int kMaxLayers = 64;  // a set of layers is one 64-bit mask
constexpr int kMaxBits = 8;     // bits of a full code in the planes layout

// The geometry of a row.
//   columns: layer l is columns [l * block_dim, min((l + 1) * block_dim, dim)), values of
//            value_type; int8 values carry one fp16 scale per row and layer.
//   planes:  layer l is the next layer_bits[l] bits of every 8-bit code, most significant first;
//            each bit is a plane of plane_bytes() bytes, bit d % 8 of byte d / 8 belonging to
//            coordinate d. One fp16 scale per row.
struct Geometry {
  Layout layout = Layout::kDense;
  ValueType value_type = ValueType::kFloat32;
  int64_t dim = 0;
  int32_t num_layers = 0;
  int64_t block_dim = 0;
  int32_t layer_bits[kMaxBits] = {};

  PEEL_HD int64_t plane_bytes() const { return (dim + 7) / 8; }
  PEEL_HD int64_t value_bytes() const {
    return value_type == ValueType::kFloat32 ? 4 : value_type == ValueType::kFloat16 ? 2 : 1;
  }
  PEEL_HD int64_t layer_begin(int64_t layer) const { return layer * block_dim; }
  PEEL_HD int64_t layer_width(int64_t layer) const {
    const int64_t begin = layer_begin(layer);
    return dim - begin < block_dim ? dim - begin : block_dim;
  }
  // Bits decoded when the layers of `held` are present; a layer needs all layers below it.
  PEEL_HD int bits_of(uint64_t held) const {
    int bits = 0;
    for (int32_t layer = 0; layer < num_layers && ((held >> layer) & 1u); ++layer) {
      bits += layer_bits[layer];
    }
    return bits;
  }
};

// The tables of all user groups, as the server trains them. Row (i, g) is weight[i], plus
// refinement[refinement_slot[g, i]] where that slot is not negative. In the block layouts it is
// read from `store`, whose row i (or num_embeddings + slot) holds the encoded value, and of it only
// the layers in held[g, item_group[g, i]].
struct StoreTable {
  Geometry geometry;
  int64_t num_embeddings = 0;
  int64_t num_groups = 1;
  const float* weight = nullptr;  // [num_embeddings, dim], rows weight_stride elements apart
  int64_t weight_stride = 0;
  const float* refinement = nullptr;         // [num_refined, dim], contiguous; may be null
  const int32_t* refinement_slot = nullptr;  // [num_groups, num_embeddings]; -1 = not refined
  int64_t num_refined = 0;
  const uint8_t* store = nullptr;  // [num_embeddings + num_refined, row_bytes]
  int64_t row_bytes = 0;
  const uint16_t* scales = nullptr;  // fp16 [num_embeddings + num_refined, scales_per_row]
  int64_t scales_per_row = 0;
  const int32_t* item_group = nullptr;  // [num_groups or 1, num_embeddings]
  int64_t item_group_stride = 0;        // 0: one row for all user groups
  const int64_t* held = nullptr;        // layer masks [num_groups, num_item_groups]
  int64_t num_item_groups = 0;
  const float* levels = nullptr;    // 510 values: those of b bits start at 2^b - 2
  const float* rotation = nullptr;  // [dim, dim] or null: decoded row x becomes rotation * x
};

// Where the levels of codes of `bits` bits begin.
PEEL_HD inline const float* levels_of(const float* levels, int bits) {
  return levels + (int64_t{1} << bits) - 2;
}

// One item group of a Personalized Elastic Embedding.
struct DirectoryEntry {
  uint64_t layers = 0;       // mask of the layers held
  uint32_t first_block = 0;  // where block_offsets has them, ascending
  uint32_t row_end = 0;      // rows of this and all earlier item groups
};
static_assert(sizeof(DirectoryEntry) == 16, "budgets count 16 bytes an item group");

enum class RowIds : int32_t { kConsecutive = 0, kListed = 1, kInBlocks = 2 };

// Rows of a packed item group lie in tiles, side by side, so that one instruction works on many.
constexpr int64_t kPackedTileRows = 32;

// Blocks begin at multiples of this many bytes.
constexpr int64_t kBlockAlignment = 64;

// One user group's held blocks, packed: a Personalized Elastic Embedding opened in place.
// A block's bytes, each section padded to 8 bytes: in the first layer of planes its item group's
// row ids and fp16 scales, in columns with int8 values the layer's fp16 scales; then the rows'
// pieces. Ids ascend within an item group. Pieces are cut into tiles of kPackedTileRows rows (the
// last may have fewer), one after another; a tile holds the first element of all its rows, then the
// second, and so on: an element is a value in columns, a byte of a bit plane in planes.
struct PackedTable {
  Geometry geometry;
  int64_t num_embeddings = 0;
  int64_t num_rows = 0;
  int64_t num_item_groups = 0;
  const DirectoryEntry* directory = nullptr;
  const uint32_t* block_offsets = nullptr;  // of each held block in `bytes`, in kBlockAlignment
  RowIds row_ids = RowIds::kInBlocks;
  int32_t id_bytes = 0;                 // 2 or 4
  const uint8_t* listed_ids = nullptr;  // [num_rows], with RowIds::kListed
  const uint8_t* bytes = nullptr;
  const float* levels = nullptr;
};

}  // namespace peel
