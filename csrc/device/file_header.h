// The first 64 bytes of a .peel file (docs/format.md), and what follows from them.
#pragma once

#include <cstdint>

#include "core/table.h"

namespace peel {

constexpr uint64_t kHeaderBytes = 64;
constexpr uint64_t kPageEntries = 8;  // entries of blocks, of 8 bytes each, in one page

// Settings of fold-in; peel_ext/device/fold_in.py describes the steps.
struct FoldInSettings {
  int32_t steps = 20;
  float step_size = 0.03f;
  float temperature = 0.1f;
  float prior = 0;  // a user's component along the axis (1, ..., 1); 0: rows have no prior
};

struct FileHeader {
  Geometry geometry;
  RowIds row_ids = RowIds::kInBlocks;
  int32_t id_bytes = 2;
  bool keep_one_block = false;  // of each item group, under every budget
  bool rotated = false;         // the rows, so that user vectors must be, too
  int64_t num_embeddings = 0;
  uint32_t num_item_groups = 0;
  uint32_t num_blocks = 0;
  uint64_t blocks_end = 0;  // bytes from the first of the file to the end of its last block
  uint32_t group = 0;
  FoldInSettings fold_in;
  uint32_t checksum = 0;  // the checksums of what follows go on from it

  // The fewest blocks a device may hold.
  uint32_t least_blocks() const {
    return keep_one_block ? num_item_groups : num_blocks < 1 ? num_blocks : 1;
  }
  // Between header and blocks: in columns checksum, row counts and listed ids of item groups.
  uint64_t item_group_section_bytes() const;
  // Where in that section the listed ids begin.
  uint64_t listed_ids_begin() const { return (4 + uint64_t{4} * num_item_groups + 7) / 8 * 8; }
  // Without their padding; 0 where none are listed.
  uint64_t listed_ids_bytes() const {
    if (row_ids != RowIds::kListed) return 0;
    return static_cast<uint64_t>(num_embeddings) * static_cast<uint64_t>(id_bytes);
  }
};

// Checks everything; throws FormatError saying what is wrong. `size` may be less than the 64 bytes.
FileHeader read_header(const uint8_t* data, uint64_t size);

}  // namespace peel
