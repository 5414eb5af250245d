#include "device/block_checks.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <string>

#include "core/executor.h"
#include "core/packed_rows.h"
#include "core/sizes.h"
#include "device/checksum.h"
#include "device/errors.h"

namespace peel {
namespace {

constexpr uint32_t kSound = ~uint32_t{0};
constexpr const char* kWrongIds = "row ids out of order or out of range";
constexpr const char* kRowTwice = "a row in two item groups";

[[noreturn]] void throw_invalid(const std::string& what) {
  throw FormatError("not a valid .peel file: " + what);
}

bool ids_ascend(const uint8_t* ids, int32_t id_bytes, int64_t begin, int64_t end, int64_t limit) {
  int64_t before = -1;
  for (int64_t r = begin; r < end; ++r) {
    const int64_t id = read_id(ids, id_bytes, r);
    if (id <= before || id >= limit) return false;
    before = id;
  }
  return true;
}

// Whether float16 numbers are finite and not below zero.
bool scales_sound(const uint8_t* scales, int64_t count) {
  uint16_t most = 0;
  for (int64_t i = 0; i < count; ++i) {
    uint16_t half;
    std::memcpy(&half, scales + 2 * i, sizeof(half));
    most = std::max(most, half);
  }
  return most < 0x7c00;  // infinity; above it what is no number, and all that is negative
}

// Whether the bits of planes beyond the last coordinate are zero.
bool spare_bits_zero(const Geometry& geometry, const uint8_t* pieces, int64_t rows,
                     int64_t piece_bytes) {
  const int64_t plane = geometry.plane_bytes();
  const auto spare = static_cast<uint8_t>(0xff << (geometry.dim % 8));
  if (geometry.dim % 8 == 0) return true;
  uint8_t found = 0;
  for (int64_t tile = 0; tile < rows; tile += kPackedTileRows) {
    const int64_t count = std::min(kPackedTileRows, rows - tile);
    const uint8_t* elements = pieces + tile * piece_bytes;
    for (int64_t last = plane - 1; last < piece_bytes; last += plane) {
      for (int64_t r = 0; r < count; ++r) found |= elements[last * count + r] & spare;
    }
  }
  return found == 0;
}

// What is wrong with the contents of a block whose checksum is right, or null.
const char* fault_of(const FileHeader& header, const uint8_t* begin, const FileBlock& block) {
  const Geometry& geometry = header.geometry;
  const bool planes = geometry.layout == Layout::kPlanes;
  const BlockBytes bytes = block_bytes(geometry, header.id_bytes, block.rows, block.layer);
  uint64_t end = 0;  // of the part before
  const auto padded_to = [&](int64_t next) {
    const auto at = static_cast<uint64_t>(next);
    return all_zero(begin + end, at - end);
  };
  if (planes && block.layer == 0) {
    if (!ids_ascend(begin, header.id_bytes, 0, block.rows, header.num_embeddings)) return kWrongIds;
    end = static_cast<uint64_t>(block.rows * header.id_bytes);
    if (!padded_to(bytes.scales)) return "padding that is not zero";
  }
  if (bytes.pieces > bytes.scales) {
    if (!scales_sound(begin + bytes.scales, block.rows)) {
      return "a scale that is negative or not finite";
    }
    end = static_cast<uint64_t>(bytes.scales + 2 * block.rows);
  }
  if (!padded_to(bytes.pieces)) return "padding that is not zero";
  const uint8_t* pieces = begin + bytes.pieces;
  const int64_t piece_bytes = block.rows * bytes.piece_bytes;
  if (planes && !spare_bits_zero(geometry, pieces, block.rows, bytes.piece_bytes)) {
    return "padding that is not zero";
  }
  end = static_cast<uint64_t>(bytes.pieces + piece_bytes);
  return padded_to(bytes.end) ? nullptr : "padding that is not zero";
}

bool checksum_right(const FileHeader& header, const uint8_t* data, const FileBlock& block) {
  const uint32_t seed = crc32(header.checksum, reinterpret_cast<const uint8_t*>(&block.word), 4);
  return crc32(seed, data + block.begin, block.end - block.begin) == block.checksum;
}

// Calls f(id) for each of the ids.
template <typename Id, typename F>
void for_ids(const uint8_t* ids, int64_t count, F&& f) {
  for (int64_t r = 0; r < count; ++r) {
    Id id;
    std::memcpy(&id, ids + r * static_cast<int64_t>(sizeof(id)), sizeof(id));
    f(id);
  }
}

// The same for the rows of all item groups that have ids.
template <typename F>
void for_row_ids(const PackedTable& table, F&& f) {
  int64_t first = 0;
  for (int64_t c = 0; c < table.num_item_groups; ++c) {
    const int64_t end = table.directory[c].row_end;
    const bool listed = table.row_ids == RowIds::kListed;
    const uint8_t* ids = listed ? table.listed_ids + first * table.id_bytes : packed_base(table, c);
    const int64_t count = ids ? end - first : 0;
    if (table.id_bytes == 2) {
      for_ids<uint16_t>(ids, count, f);
    } else {
      for_ids<uint32_t>(ids, count, f);
    }
    first = end;
  }
}

}  // namespace

bool all_zero(const uint8_t* bytes, uint64_t count) {
  uint8_t found = 0;
  for (uint64_t i = 0; i < count; ++i) found |= bytes[i];
  return found == 0;
}

void check_blocks(const FileHeader& header, const uint8_t* data,
                  const std::vector<FileBlock>& blocks, size_t first) {
  const auto offset = static_cast<int64_t>(first);
  const auto count = static_cast<int64_t>(blocks.size());
  std::atomic<uint32_t> wrong{kSound};  // the first of them
  parallel_for(count - offset, 16, [&](int64_t begin, int64_t end) {
    for (int64_t at = offset + begin; at < offset + end; ++at) {
      const FileBlock& block = blocks[static_cast<size_t>(at)];
      if (checksum_right(header, data, block) && !fault_of(header, data + block.begin, block)) {
        continue;
      }
      uint32_t before = wrong.load();
      while (static_cast<uint32_t>(at) < before &&
             !wrong.compare_exchange_weak(before, static_cast<uint32_t>(at))) {
      }
    }
  });
  if (wrong.load() == kSound) return;
  const FileBlock& block = blocks[wrong.load()];
  const std::string number = std::to_string(wrong.load());
  if (!checksum_right(header, data, block)) {
    throw FormatError("damaged: the checksum of block " + number + " does not match");
  }
  throw_invalid(std::string(fault_of(header, data + block.begin, block)) + " in block " + number);
}

void check_listed_ids(const FileHeader& header, const PackedTable& table) {
  int64_t begin = 0;
  for (int64_t c = 0; c < table.num_item_groups; ++c) {
    const int64_t end = table.directory[c].row_end;
    if (!ids_ascend(table.listed_ids, header.id_bytes, begin, end, header.num_embeddings)) {
      throw_invalid(kWrongIds);
    }
    begin = end;
  }
}

void check_rows_once(const PackedTable& table, uint64_t bytes_held) {
  if (table.row_ids == RowIds::kConsecutive || table.num_item_groups < 2) return;
  const size_t words = memory_size((static_cast<uint64_t>(table.num_embeddings) + 63) / 64);
  constexpr uint64_t kSmall = 2 << 20;
  if (8 * words <= std::max(kSmall, bytes_held)) {
    std::vector<uint64_t> met(words);
    uint64_t again = 0;
    for_row_ids(table, [&](uint32_t id) {
      uint64_t& word = met[id / 64];
      const uint64_t own = uint64_t{1} << (id % 64);
      again |= word & own;
      word |= own;
    });
    if (again) throw_invalid(kRowTwice);
    return;
  }
  // Few rows of a table that a header may only claim to be large.
  std::vector<uint32_t> ids;
  for_row_ids(table, [&](uint32_t id) { ids.push_back(id); });
  std::sort(ids.begin(), ids.end());
  if (std::adjacent_find(ids.begin(), ids.end()) != ids.end()) throw_invalid(kRowTwice);
}

}  // namespace peel
