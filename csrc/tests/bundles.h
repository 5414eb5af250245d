// Small bundles made by hand, and the checksums of damaged ones made right again.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "device/checksum.h"
#include "device/sha256.h"
#include "files.h"

namespace files {

constexpr uint64_t kPageHeaderBytes = 32;
constexpr uint64_t kEntryBytes = 40;

// Makes the checksums of header and index right, as far as there is one; what they say may be
// anything.
inline void seal_bundle(Bytes& bytes) {
  if (bytes.size() < 64) return;
  put_checksum(bytes, 60, 0, 60, 0);
  uint32_t seed, num_pages, page_entries;
  std::memcpy(&seed, bytes.data() + 60, 4);
  std::memcpy(&num_pages, bytes.data() + 16, 4);
  std::memcpy(&page_entries, bytes.data() + 20, 4);
  const uint64_t width = (kPageHeaderBytes + kEntryBytes * page_entries + 63) / 64 * 64;
  for (uint64_t page = 0, at = 64; page < num_pages && at + width <= bytes.size();
       ++page, at += width) {
    put_checksum(bytes, at, at + 4, at + width, seed);
  }
}

// A bundle of users and their files, in one page for each `num_pages`.
inline Bytes bundle_file(const std::vector<std::pair<std::string, Bytes>>& users,
                         uint32_t num_pages = 1) {
  const auto page_entries = static_cast<uint32_t>(users.size());
  const uint64_t width = (kPageHeaderBytes + kEntryBytes * page_entries + 63) / 64 * 64;
  Bytes bytes(64 + num_pages * width);
  std::memcpy(bytes.data(), "PEEB\1", 5);
  bytes.put(8, uint64_t{users.size()});
  bytes.put(16, num_pages);
  bytes.put(20, page_entries);
  std::vector<std::vector<std::string>> pages(num_pages);
  for (const auto& [user, file] : users) {
    const auto digest = peel::sha256(user);
    std::string entry(digest.begin(), digest.begin() + 16);
    entry.resize(kEntryBytes);
    const uint64_t place[2] = {bytes.size(), file.size()};
    std::memcpy(&entry[16], place, sizeof(place));
    std::memcpy(&entry[32], file.data() + 44, 4);
    std::memcpy(&entry[36], file.data() + 60, 4);
    const uint64_t begin = uint64_t{digest[0]} << 24 | uint64_t{digest[1]} << 16 |
                           uint64_t{digest[2]} << 8 | uint64_t{digest[3]};
    pages[begin * num_pages >> 32].push_back(entry);
    bytes.append(file.data(), file.size());
    bytes.pad(64);
  }
  for (uint32_t page = 0; page < num_pages; ++page) {
    const uint64_t at = 64 + page * width;
    std::sort(pages[page].begin(), pages[page].end(),
              [](const auto& a, const auto& b) { return std::memcmp(a.data(), b.data(), 16) < 0; });
    bytes.put(at + 4, static_cast<uint32_t>(pages[page].size()));
    bytes.put(at + 8, page);
    for (size_t i = 0; i < pages[page].size(); ++i) {
      std::memcpy(bytes.data() + at + kPageHeaderBytes + kEntryBytes * i, pages[page][i].data(),
                  kEntryBytes);
    }
  }
  bytes.put(24, bytes.size());
  seal_bundle(bytes);
  return bytes;
}

}  // namespace files
