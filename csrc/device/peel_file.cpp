#include "device/peel_file.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <string>
#include <utility>

#include "core/executor.h"
#include "core/sizes.h"
#include "device/block_checks.h"
#include "device/block_walk.h"
#include "device/errors.h"
#include "device/levels.h"

namespace peel {
namespace {

[[noreturn]] void throw_cut_short(uint64_t bytes) {
  throw FormatError("cut short: " + std::to_string(bytes) +
                    " bytes are less than the first blocks take");
}

}  // namespace

PeelFile::PeelFile(std::shared_ptr<const Source> source, uint64_t budget_bytes)
    : source_(std::move(source)) {
  uint8_t first[kHeaderBytes] = {};
  const uint64_t size = source_->size();
  source_->read(0, std::min(size, kHeaderBytes), first);
  header_ = read_header(first, size);
  if (reinterpret_cast<uintptr_t>(source_->in_place()) % 8 != 0) {
    throw FormatError("the bytes are not aligned to 8");
  }
  appendix_ = std::make_unique<Appendix>(source_, header_);
  prefix_ = std::make_shared<Prefix>(source_, reach());
  snapshot_ = hold(prefix_, budget_bytes, 0);
}

// Bytes that can be had of the file's blocks.
uint64_t PeelFile::reach() const { return std::min(source_->size(), header_.blocks_end); }

void PeelFile::resize(uint64_t budget_bytes) {
  const std::lock_guard<Mutex> resizing(resizing_);
  std::shared_ptr<Prefix> prefix;
  uint32_t checked = 0;
  {
    const std::shared_ptr<const Snapshot> before = snapshot();
    checked = before->num_blocks();
    const std::lock_guard<Mutex> lock(mutex_);
    prefix = prefix_;
  }
  if (!prefix) throw ClosedError();  // meanwhile
  std::shared_ptr<const Snapshot> fresh;
  try {
    fresh = hold(prefix, budget_bytes, checked);
  } catch (const FormatError& error) {
    throw FormatError(std::string(error.what()) +
                      ": what was read now is damaged, or no longer the file that was opened");
  }
  const std::lock_guard<Mutex> lock(mutex_);
  if (snapshot_) snapshot_.swap(fresh);
}

std::shared_ptr<const Snapshot> PeelFile::snapshot() const {
  const std::lock_guard<Mutex> lock(mutex_);
  if (!snapshot_) throw ClosedError();
  return snapshot_;
}

void PeelFile::close() {
  const std::lock_guard<Mutex> lock(mutex_);
  snapshot_.reset();
  prefix_.reset();
}

// The smallest feasible budget; reads item groups and pages of entries, and nothing else.
uint64_t PeelFile::minimum_bytes() const {
  const uint64_t section_bytes = header_.item_group_section_bytes();
  if (kHeaderBytes + section_bytes > reach()) throw_cut_short(source_->size());
  std::vector<uint8_t> section(memory_size(section_bytes));
  source_->read(kHeaderBytes, section_bytes, section.data());
  uint8_t page[kBlockAlignment];
  BlockWalk walk(header_, section.data(), [&](uint64_t offset) -> const uint8_t* {
    if (offset + sizeof(page) > reach()) return nullptr;
    source_->read(offset, sizeof(page), page);
    return page;
  });
  FileBlock block;
  block.held_bytes = walk.overhead_bytes();
  for (uint32_t number = 0; number < header_.least_blocks(); ++number) {
    if (!walk.next(block)) throw_cut_short(source_->size());
  }
  return block.held_bytes;
}

std::shared_ptr<Snapshot> PeelFile::hold(const std::shared_ptr<Prefix>& prefix,
                                         uint64_t budget_bytes, uint32_t checked_blocks) const {
  const uint64_t fixed = kHeaderBytes + header_.item_group_section_bytes();
  const uint64_t wanted = std::min(reach(), budget_bytes);
  if (wanted < fixed) {
    if (fixed <= reach()) throw BudgetError(budget_bytes, minimum_bytes());
    throw_cut_short(source_->size());
  }
  const Pin pin(prefix, wanted);
  prefix->fetch(wanted);
  const uint8_t* data = prefix->data();
  BlockWalk walk(header_, data + kHeaderBytes, [&](uint64_t offset) {
    return offset + kBlockAlignment <= wanted ? data + offset : nullptr;
  });
  std::vector<FileBlock> blocks;
  uint64_t held_bytes = walk.overhead_bytes();
  FileBlock block;
  while (walk.next(block) && block.end <= wanted && block.held_bytes <= budget_bytes) {
    blocks.push_back(block);
    walk.hold(block);
    held_bytes = block.held_bytes;
  }
  if (blocks.size() < header_.least_blocks() || held_bytes > budget_bytes) {
    if (wanted == reach() && block.held_bytes <= budget_bytes) throw_cut_short(source_->size());
    throw BudgetError(budget_bytes, minimum_bytes());
  }
  check_blocks(header_, data, blocks, std::min<size_t>(checked_blocks, blocks.size()));
  const uint64_t end = blocks.empty() ? fixed : blocks.back().end;
  std::shared_ptr<Snapshot> snapshot(new Snapshot(prefix, end));
  snapshot->nbytes_ = held_bytes;
  snapshot->prefix_bytes_ = end;
  std::vector<DirectoryEntry> item_groups = walk.item_groups();
  // In planes the last item group may be that of a block that did not fit.
  const bool planes = header_.geometry.layout == Layout::kPlanes;
  if (planes && !item_groups.empty() && item_groups.back().layers == 0) item_groups.pop_back();
  snapshot->make_directory(item_groups, blocks);
  snapshot->make_table(header_, data);
  if (blocks.size() > checked_blocks) check_rows_once(snapshot->table(), end);
  return snapshot;
}

void Snapshot::make_directory(const std::vector<DirectoryEntry>& item_groups,
                              const std::vector<FileBlock>& blocks) {
  num_blocks_ = static_cast<uint32_t>(blocks.size());
  directory_ = item_groups;
  uint32_t first = 0;
  for (DirectoryEntry& entry : directory_) {
    entry.first_block = first;
    first += static_cast<uint32_t>(__builtin_popcountll(entry.layers));
  }
  block_offsets_.resize(blocks.size());
  for (const FileBlock& block : blocks) {
    const DirectoryEntry& entry = directory_[block.item_group];
    const uint64_t below = entry.layers & ((uint64_t{1} << block.layer) - 1);
    const auto at = entry.first_block + static_cast<uint32_t>(__builtin_popcountll(below));
    block_offsets_[at] = static_cast<uint32_t>(block.begin / kBlockAlignment);
  }
}

void Snapshot::make_table(const FileHeader& header, const uint8_t* data) {
  table_.geometry = header.geometry;
  table_.num_embeddings = header.num_embeddings;
  table_.num_rows = directory_.empty() ? 0 : directory_.back().row_end;
  table_.num_item_groups = static_cast<int64_t>(directory_.size());
  table_.directory = directory_.data();
  table_.block_offsets = block_offsets_.data();
  table_.row_ids = header.row_ids;
  table_.id_bytes = header.id_bytes;
  table_.bytes = data;
  table_.levels = levels();
  if (header.row_ids == RowIds::kListed) {
    table_.listed_ids = data + kHeaderBytes + header.listed_ids_begin();
    check_listed_ids(header, table_);
  }
}

}  // namespace peel
