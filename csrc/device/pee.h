// Opening the bytes of a Personalized Elastic Embedding in place.
#pragma once

#include <cstdint>

#include "core/table.h"

namespace peel {

// The first 64 bytes, little endian. The directory follows, then (RowIds::kListed) the padded id
// list, then the pool to the end. peel_ext/format/packing.py writes it.
struct PeeHeader {
  char magic[4];  // "PEE1"
  uint8_t layout;
  uint8_t value_type;
  uint8_t row_ids;
  uint8_t id_bytes;
  uint32_t dim;
  uint32_t block_dim;
  uint64_t num_embeddings;
  uint64_t num_rows;
  uint32_t num_item_groups;
  uint32_t num_layers;
  uint8_t layer_bits[kMaxBits];
  uint8_t reserved[16];  // zero
};
static_assert(sizeof(PeeHeader) == 64, "the header is read in place");

// Checks every size, offset and id before anything points at them; throws std::invalid_argument
// saying what is wrong. `data` must be 8-byte aligned and outlive the result; `centroids` is the
// table of 510 values (Geometry in core/table.h).
PackedTable open_pee(const uint8_t* data, uint64_t size, const float* centroids);

}  // namespace peel
