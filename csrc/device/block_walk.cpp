#include "device/block_walk.h"

#include <cstring>
#include <string>
#include <utility>

#include "core/packed_rows.h"
#include "device/block_checks.h"
#include "device/checksum.h"
#include "device/errors.h"

namespace peel {
namespace {

constexpr uint32_t kLayerBits = 6;  // of an entry's word; the rest are rows or an item group

void require(bool condition, const char* what) {
  if (!condition) throw FormatError(std::string("not a valid .peel file: ") + what);
}

uint32_t read_u32(const uint8_t* at) {
  uint32_t value;
  std::memcpy(&value, at, sizeof(value));
  return value;
}

}  // namespace

BlockWalk::BlockWalk(const FileHeader& header, const uint8_t* section, Pages pages)
    : header_(header), pages_(std::move(pages)) {
  at_ = kHeaderBytes + header.item_group_section_bytes();
  if (header.geometry.layout == Layout::kColumns) read_item_groups(section);
}

void BlockWalk::read_item_groups(const uint8_t* section) {
  const uint64_t size = header_.item_group_section_bytes();
  if (crc32(header_.checksum, section + 4, size - 4) != read_u32(section)) {
    throw FormatError("damaged: the checksum of the item groups does not match");
  }
  const uint64_t ends = 4 + uint64_t{4} * header_.num_item_groups;
  const uint64_t ids_begin = header_.listed_ids_begin();
  const uint64_t ids_end = ids_begin + header_.listed_ids_bytes();
  require(all_zero(section + ends, ids_begin - ends) && all_zero(section + ids_end, size - ids_end),
          "padding that is not zero");
  uint32_t before = 0;
  item_groups_.reserve(header_.num_item_groups);
  for (uint32_t c = 0; c < header_.num_item_groups; ++c) {
    const uint32_t end = read_u32(section + 4 + uint64_t{4} * c);
    require(end >= before, "item groups end before they begin");
    item_groups_.push_back({0, 0, end});
    before = end;
  }
  require(before == header_.num_embeddings, "item groups do not add up to the table");
  announced_.resize(item_groups_.size());
}

void BlockWalk::open_item_group(uint32_t rows) {
  const uint64_t before = item_groups_.empty() ? 0 : item_groups_.back().row_end;
  require(rows >= 1, "an item group without rows");
  require(item_groups_.size() < header_.num_item_groups, "more item groups than the header says");
  require(before + rows <= static_cast<uint64_t>(header_.num_embeddings),
          "more rows than the header says");
  item_groups_.push_back({0, 0, static_cast<uint32_t>(before + rows)});
  announced_.push_back(0);
}

uint64_t BlockWalk::directory_bytes() const {
  return sizeof(DirectoryEntry) * item_groups_.size() + kDirectoryBlockBytes * number_;
}

uint64_t BlockWalk::overhead_bytes() const {
  const bool columns = header_.geometry.layout == Layout::kColumns;
  return kHeaderBytes + header_.item_group_section_bytes() +
         (columns ? sizeof(DirectoryEntry) * header_.num_item_groups : 0);
}

bool BlockWalk::next(FileBlock& block) {
  if (number_ == header_.num_blocks) {
    require(at_ == header_.blocks_end, "blocks end before their end");
    require(item_groups_.size() == header_.num_item_groups,
            "fewer item groups than the header says");
    return false;
  }
  const uint64_t slot = number_ % kPageEntries;
  if (slot == 0) {
    page_ = pages_(at_);
    if (!page_) return false;
    at_ += kBlockAlignment;
    for (uint64_t entry = header_.num_blocks - number_; entry < kPageEntries; ++entry) {
      uint64_t value;
      std::memcpy(&value, page_ + 8 * entry, sizeof(value));
      require(value == 0, "an entry beyond the last block");
    }
  }
  block.checksum = read_u32(page_ + 8 * slot);
  block.word = read_u32(page_ + 8 * slot + 4);
  block.layer = static_cast<int32_t>(block.word & ((1u << kLayerBits) - 1));
  block.item_group = block.word >> kLayerBits;
  require(block.layer < header_.geometry.num_layers, "an unknown layer");
  const bool planes = header_.geometry.layout == Layout::kPlanes;
  if (planes && block.layer == 0) {
    open_item_group(block.item_group);
    block.item_group = static_cast<uint32_t>(item_groups_.size()) - 1;
  }
  require(block.item_group < item_groups_.size(), "a block of an unknown item group");
  uint64_t& met = announced_[block.item_group];
  const uint64_t own = uint64_t{1} << block.layer;
  require(!planes || met == own - 1, "a layer without those below it");
  require((met & own) == 0, "a block twice");
  met |= own;
  block.rows = item_groups_[block.item_group].row_end -
               (block.item_group ? item_groups_[block.item_group - 1].row_end : 0);
  block.begin = at_;
  const BlockBytes bytes = block_bytes(header_.geometry, header_.id_bytes, block.rows, block.layer);
  block.end = at_ + static_cast<uint64_t>(bytes.end);
  require(block.end <= header_.blocks_end, "blocks reach beyond their end");
  at_ = block.end;
  ++number_;
  block.held_bytes = block.end + directory_bytes();
  return true;
}

void BlockWalk::hold(const FileBlock& block) {
  item_groups_[block.item_group].layers |= uint64_t{1} << block.layer;
}

}  // namespace peel
