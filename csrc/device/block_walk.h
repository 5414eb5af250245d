// The blocks of a .peel file in order, as its entries announce them; their contents are not looked
// at.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "core/table.h"
#include "device/file_header.h"

namespace peel {

// Budgets count this much of the directory for each held block, beside 16 bytes an item group.
constexpr uint64_t kDirectoryBlockBytes = 4;

struct FileBlock {
  uint32_t item_group = 0;  // in the order of the file
  int32_t layer = 0;
  int64_t rows = 0;
  uint64_t begin = 0;  // bytes from the first of the file
  uint64_t end = 0;
  uint32_t checksum = 0;
  uint32_t word = 0;        // the entry's other half, which the checksum covers
  uint64_t held_bytes = 0;  // that a device holds with this block and all before it
};

class BlockWalk {
 public:
  // The 64 bytes of a page at an offset, or null where it is out of reach.
  using Pages = std::function<const uint8_t*(uint64_t offset)>;

  // `section` are the bytes of the item groups in columns, checked here; null in planes.
  BlockWalk(const FileHeader& header, const uint8_t* section, Pages pages);

  // False after the last block, or where its page is out of reach. Throws FormatError.
  bool next(FileBlock& block);
  // Bytes held without any block.
  uint64_t overhead_bytes() const;
  // Takes a block into the masks of item_groups().
  void hold(const FileBlock& block);
  // Layers held and row ends of the item groups seen so far.
  const std::vector<DirectoryEntry>& item_groups() const { return item_groups_; }

 private:
  uint64_t directory_bytes() const;
  void open_item_group(uint32_t rows);
  void read_item_groups(const uint8_t* section);

  const FileHeader& header_;
  Pages pages_;
  const uint8_t* page_ = nullptr;
  std::vector<DirectoryEntry> item_groups_;
  std::vector<uint64_t> announced_;  // layers met so far of each item group
  uint64_t at_ = 0;
  uint32_t number_ = 0;
};

}  // namespace peel
