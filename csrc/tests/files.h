// Small .peel files made by hand, and the checksums of damaged ones made right again.
#pragma once

#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "device/block_walk.h"
#include "device/checksum.h"
#include "device/errors.h"
#include "device/file_header.h"

namespace files {

// Bytes kept 8-byte aligned.
class Bytes {
 public:
  explicit Bytes(uint64_t size = 0) { resize(size); }
  const uint8_t* data() const { return reinterpret_cast<const uint8_t*>(words_.data()); }
  uint8_t* data() { return reinterpret_cast<uint8_t*>(words_.data()); }
  uint64_t size() const { return size_; }
  void resize(uint64_t size) {
    words_.resize((size + 7) / 8 + 1);
    size_ = size;
  }
  void append(const void* from, uint64_t bytes) {
    resize(size_ + bytes);
    if (bytes) std::memcpy(data() + size_ - bytes, from, bytes);
  }
  void pad(uint64_t to) { resize((size_ + to - 1) / to * to); }
  template <typename T>
  void put(uint64_t at, T value) {
    std::memcpy(data() + at, &value, sizeof(value));
  }
  Bytes cut(uint64_t size) const {
    Bytes shorter(size);
    if (size) std::memcpy(shorter.data(), data(), size);
    return shorter;
  }

 private:
  std::vector<uint64_t> words_;
  uint64_t size_ = 0;
};

inline void put_checksum(Bytes& bytes, uint64_t at, uint64_t begin, uint64_t end, uint32_t seed) {
  bytes.put(at, peel::crc32(seed, bytes.data() + begin, end - begin));
}

// Makes every checksum right, as far as the bytes make sense; what they say may be anything.
inline void seal(Bytes& bytes) {
  if (bytes.size() < peel::kHeaderBytes) return;
  put_checksum(bytes, 60, 0, 60, 0);
  try {
    const peel::FileHeader header = peel::read_header(bytes.data(), bytes.size());
    const uint64_t section = header.item_group_section_bytes();
    if (section > bytes.size() - 64) return;
    if (section) put_checksum(bytes, 64, 68, 64 + section, header.checksum);
    uint64_t entry = 0;
    peel::BlockWalk walk(header, bytes.data() + 64, [&](uint64_t offset) {
      entry = offset;
      return offset + 64 <= bytes.size() ? bytes.data() + offset : nullptr;
    });
    peel::FileBlock block;
    for (uint64_t number = 0; walk.next(block) && block.end <= bytes.size(); ++number) {
      const uint64_t at = entry + number % 8 * 8;
      put_checksum(bytes, at, at + 4, at + 8, header.checksum);
      uint32_t seed;
      std::memcpy(&seed, bytes.data() + at, sizeof(seed));
      put_checksum(bytes, at, block.begin, block.end, seed);
    }
  } catch (const peel::FormatError&) {
  }
}

inline void append_header(Bytes& bytes, int layout, uint16_t dim, uint16_t block_dim,
                          uint32_t num_embeddings, uint32_t num_item_groups, uint32_t num_blocks,
                          uint32_t blocks_end) {
  bytes.resize(64);
  std::memcpy(bytes.data(), "PEEL", 4);
  const uint8_t small[8] = {
      1, 0, static_cast<uint8_t>(layout), 2, static_cast<uint8_t>(layout == 2 ? 2 : 0), 2, 20, 0};
  std::memcpy(bytes.data() + 4, small, sizeof(small));
  if (layout == 2) std::memcpy(bytes.data() + 12, "\2\1", 2);
  bytes.put(20, dim);
  bytes.put(22, block_dim);
  bytes.put(24, num_embeddings);
  bytes.put(28, num_item_groups);
  bytes.put(32, num_blocks);
  bytes.put(44, blocks_end / 64);
  bytes.put(48, 0.03f);
  bytes.put(52, 0.1f);
}

inline void append_noise(Bytes& bytes, std::mt19937_64& random, uint64_t count, uint64_t pad) {
  for (uint64_t i = 0; i < count; ++i) {
    const auto byte = static_cast<uint8_t>(random());
    bytes.append(&byte, 1);
  }
  bytes.pad(pad);
}

// Noise of planes of 9 coordinates, two bytes a row each: bits beyond the ninth are zero.
inline void append_planes(Bytes& bytes, std::mt19937_64& random, uint64_t planes, uint64_t rows) {
  const uint64_t begin = bytes.size();
  append_noise(bytes, random, 2 * planes * rows, 1);
  for (uint64_t at = begin; at < bytes.size(); ++at) {
    if ((at - begin) / rows % 2) bytes.data()[at] &= 1;
  }
  bytes.pad(64);
}

// Puts a section of floats behind a file's blocks.
inline void append_floats(Bytes& bytes, uint32_t kind, uint64_t count, uint32_t width,
                          const std::vector<float>& values) {
  const uint64_t begin = bytes.size();
  bytes.resize(begin + 64);
  bytes.put(begin + 4, kind);
  bytes.put(begin + 8, uint64_t{sizeof(float) * values.size()});
  bytes.put(begin + 16, count);
  bytes.put(begin + 24, width);
  bytes.append(values.data(), sizeof(float) * values.size());
  bytes.pad(64);
  put_checksum(bytes, begin, begin + 4, bytes.size(),
               peel::read_header(bytes.data(), bytes.size()).checksum);
}

// Puts the section of a file's item ids behind its blocks. `integers` is the section's width.
inline void append_item_ids(Bytes& bytes, const std::vector<std::string>& ids, uint32_t integers) {
  const uint64_t begin = bytes.size();
  const uint64_t payload = begin + 64;
  bytes.resize(payload + 4 * (ids.size() + 1));
  bytes.put(begin + 4, uint32_t{2});
  bytes.put(begin + 16, uint64_t{ids.size()});
  bytes.put(begin + 24, integers);
  uint32_t end = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    end += static_cast<uint32_t>(ids[i].size());
    bytes.put(payload + 4 * (i + 1), end);
    bytes.append(ids[i].data(), ids[i].size());
  }
  bytes.put(begin + 8, bytes.size() - payload);
  bytes.pad(64);
  put_checksum(bytes, begin, begin + 4, bytes.size(),
               peel::read_header(bytes.data(), bytes.size()).checksum);
}

// A planes table of 12 rows, dim 9, layers of 2 and 1 bits: ids {4, 7, 9} with both layers, ids
// {0, 2} with the first; in the order (0, 0), (1, 0), (0, 1).
inline Bytes planes_file(std::mt19937_64& random) {
  Bytes bytes;
  append_header(bytes, 2, 9, 0, 12, 2, 3, 64 + 64 + 64 + 64 + 64);
  const uint32_t words[3] = {3 << 6, 2 << 6, 0 << 6 | 1};
  for (const uint32_t word : words) {
    const uint32_t entry[2] = {0, word};
    bytes.append(entry, 8);
  }
  bytes.pad(64);
  const uint16_t ids[2][3] = {{4, 7, 9}, {0, 2, 0}};
  const uint16_t scales[2][3] = {{0x3c00, 0x4000, 0x3800}, {0x3c00, 0x3c00, 0}};  // 1, 2, 0.5
  for (int c = 0; c < 2; ++c) {
    bytes.append(ids[c], c ? 4 : 6);
    bytes.pad(8);
    bytes.append(scales[c], c ? 4 : 6);
    bytes.pad(8);
    append_planes(bytes, random, 2, 3 - c);
  }
  append_planes(bytes, random, 1, 3);
  seal(bytes);
  return bytes;
}

// A planes table of num_blocks item groups of 32 rows, dim 64, each with one layer of 2 bits.
inline Bytes long_planes_file(std::mt19937_64& random, uint32_t num_blocks) {
  constexpr uint32_t kRows = 32;
  constexpr uint64_t kBlockBytes = 640;  // ids, scales and two planes of 8 bytes a row
  Bytes bytes;
  const uint64_t end = 64 + (num_blocks + 7) / 8 * 64 + num_blocks * kBlockBytes;
  append_header(bytes, 2, 64, 0, num_blocks * kRows, num_blocks, num_blocks,
                static_cast<uint32_t>(end));
  for (uint32_t block = 0; block < num_blocks; ++block) {
    if (block % 8 == 0) {
      for (uint32_t number = block; number < block + 8; ++number) {
        const uint32_t entry[2] = {0, number < num_blocks ? kRows << 6 : 0};
        bytes.append(entry, 8);
      }
    }
    for (uint32_t row = 0; row < kRows; ++row) {
      const auto id = static_cast<uint16_t>(row * num_blocks + block);
      bytes.append(&id, sizeof(id));
    }
    for (uint32_t row = 0; row < kRows; ++row) bytes.append("\0\x3c", 2);  // 1
    append_noise(bytes, random, kRows * 16, 64);
  }
  seal(bytes);
  return bytes;
}

// An int8 columns table of 6 rows in 2 item groups, dim 5, blocks of 3 and 2 columns, in the order
// (0, 0), (1, 1), (0, 1).
inline Bytes columns_file(std::mt19937_64& random) {
  Bytes bytes;
  append_header(bytes, 1, 5, 3, 6, 2, 3, 64 + 64 + 64 + 64 + 64 + 64);
  const uint32_t section[3] = {0, 4, 6};
  bytes.append(section, sizeof(section));
  bytes.pad(64);
  const uint32_t words[3] = {0 << 6, 1 << 6 | 1, 0 << 6 | 1};
  for (const uint32_t word : words) {
    const uint32_t entry[2] = {0, word};
    bytes.append(entry, 8);
  }
  bytes.pad(64);
  const uint64_t shapes[3][2] = {{4, 3}, {2, 2}, {4, 2}};
  for (const auto& shape : shapes) {
    const std::vector<uint16_t> scales(shape[0], 0x3c00);
    bytes.append(scales.data(), 2 * shape[0]);
    bytes.pad(8);
    append_noise(bytes, random, shape[0] * shape[1], 64);
  }
  seal(bytes);
  return bytes;
}

}  // namespace files
