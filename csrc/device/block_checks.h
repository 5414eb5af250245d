// What the bytes of blocks must be, beyond what their entries say of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/table.h"
#include "device/block_walk.h"
#include "device/file_header.h"

namespace peel {

// Of the blocks from `first` on: checksums, row ids that ascend, scales that are finite and not
// negative, padding of zeros. Throws FormatError for the first block that is otherwise.
void check_blocks(const FileHeader& header, const uint8_t* data,
                  const std::vector<FileBlock>& blocks, size_t first);

// Listed row ids: they ascend within each item group. Throws FormatError.
void check_listed_ids(const FileHeader& header, const PackedTable& table);

// No row lies in two item groups; their ids have been checked. Throws FormatError. Memory while it
// runs: a bit for each row of the whole table, or the ids held.
void check_rows_once(const PackedTable& table, uint64_t bytes_held);

// Whether all of `count` bytes are zero.
bool all_zero(const uint8_t* bytes, uint64_t count);

}  // namespace peel
