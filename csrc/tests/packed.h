// Builds small packed tables by hand for the tests.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "device/pee.h"

namespace packed {

// Bytes kept 8-byte aligned.
struct Bytes {
  std::vector<uint64_t> words;
  uint64_t size = 0;

  const uint8_t* data() const { return reinterpret_cast<const uint8_t*>(words.data()); }
  uint8_t* data() { return reinterpret_cast<uint8_t*>(words.data()); }
  void append(const void* from, uint64_t bytes) {
    const uint64_t padded = (bytes + 7) / 8 * 8;
    words.resize((size + padded) / 8);
    if (bytes) std::memcpy(data() + size, from, bytes);
    size += padded;
  }
};

// Two item groups of a planes table of dim 9 with layers of 2 and 1 bits: ids {4, 7, 9} with both
// layers, ids {0, 2} with the first.
inline Bytes planes_table(std::mt19937_64& random) {
  peel::PeeHeader header{};
  std::memcpy(header.magic, "PEE1", 4);
  header.layout = 2;
  header.value_type = 2;
  header.row_ids = 2;
  header.id_bytes = 2;
  header.dim = 9;
  header.num_embeddings = 12;
  header.num_rows = 5;
  header.num_item_groups = 2;
  header.num_layers = 2;
  header.layer_bits[0] = 2;
  header.layer_bits[1] = 1;
  // item group 0: ids 8, scales 8, pieces 3 * 4 -> 16, pieces 3 * 2 -> 8: 40 bytes
  const peel::DirectoryEntry directory[2] = {{3, 0, 3}, {1, 5, 5}};
  Bytes bytes;
  bytes.append(&header, sizeof(header));
  bytes.append(directory, sizeof(directory));
  const auto noise = [&](uint64_t count) {
    std::vector<uint8_t> values(count);
    for (auto& value : values) value = static_cast<uint8_t>(random());
    bytes.append(values.data(), count);
  };
  const uint16_t first_ids[] = {4, 7, 9};
  const uint16_t first_scales[] = {0x3c00, 0x4000, 0x3800};  // 1, 2, 0.5
  bytes.append(first_ids, 6);
  bytes.append(first_scales, 6);
  noise(12);
  noise(6);
  const uint16_t second_ids[] = {0, 2};
  const uint16_t second_scales[] = {0x3c00, 0x3c00};
  bytes.append(second_ids, 4);
  bytes.append(second_scales, 4);
  noise(8);
  return bytes;
}

// An int8 columns table of 6 rows in 2 consecutive item groups, dim 5, blocks of 3 and 2 columns;
// the first item group holds both layers, the second only the second.
inline Bytes columns_table(std::mt19937_64& random) {
  peel::PeeHeader header{};
  std::memcpy(header.magic, "PEE1", 4);
  header.layout = 1;
  header.value_type = 2;
  header.id_bytes = 2;
  header.dim = 5;
  header.block_dim = 3;
  header.num_embeddings = 6;
  header.num_rows = 6;
  header.num_item_groups = 2;
  header.num_layers = 2;
  // item group 0 (4 rows): scales 8, pieces 12 -> 16, scales 8, pieces 8: 40 bytes
  const peel::DirectoryEntry directory[2] = {{3, 0, 4}, {2, 5, 6}};
  Bytes bytes;
  bytes.append(&header, sizeof(header));
  bytes.append(directory, sizeof(directory));
  const auto block = [&](uint64_t rows, uint64_t width) {
    const std::vector<uint16_t> scales(rows, 0x3c00);
    bytes.append(scales.data(), 2 * rows);
    std::vector<int8_t> values(rows * width);
    for (auto& value : values) value = static_cast<int8_t>(random() % 255 - 127);
    bytes.append(values.data(), values.size());
  };
  block(4, 3);
  block(4, 2);
  block(2, 2);
  return bytes;
}

// Centroids that tell the level and code: 1000 * bits + code.
inline std::vector<float> telling_centroids() {
  std::vector<float> table;
  for (int bits = 1; bits <= 8; ++bits) {
    for (int code = 0; code < 1 << bits; ++code) {
      table.push_back(static_cast<float>(1000 * bits + code));
    }
  }
  return table;
}

}  // namespace packed
