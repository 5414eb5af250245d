// A Personalized Elastic Embedding: a prefix of a .peel file, held under a budget that may change.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/mutex.h"
#include "core/table.h"
#include "device/appendix.h"
#include "device/block_walk.h"
#include "device/file_header.h"
#include "device/prefix.h"
#include "device/source.h"

namespace peel {

constexpr uint64_t kNoBudget = ~uint64_t{0};

// What is held at one moment. It never changes, and its bytes stay as long as it does.
class Snapshot {
 public:
  const PackedTable& table() const { return table_; }
  uint32_t num_blocks() const { return num_blocks_; }
  // Bytes held: those of the file's prefix, and the directory.
  uint64_t nbytes() const { return nbytes_; }
  uint64_t prefix_bytes() const { return prefix_bytes_; }

 private:
  friend class PeelFile;
  Snapshot(std::shared_ptr<Prefix> prefix, uint64_t end) : pin_(std::move(prefix), end) {}

  void make_directory(const std::vector<DirectoryEntry>& item_groups,
                      const std::vector<FileBlock>& blocks);
  void make_table(const FileHeader& header, const uint8_t* data);

  PackedTable table_;
  std::vector<DirectoryEntry> directory_;
  std::vector<uint32_t> block_offsets_;
  uint32_t num_blocks_ = 0;
  uint64_t nbytes_ = 0;
  uint64_t prefix_bytes_ = 0;
  Pin pin_;
};

// All calls may come from any thread.
class PeelFile {
 public:
  // Holds the longest prefix that fits the budget, as far as the source goes. Every block held has
  // been checked. Throws FormatError, SourceError, BudgetError.
  PeelFile(std::shared_ptr<const Source> source, uint64_t budget_bytes);

  // The same prefix as opening anew under this budget; reads only what is missing. What was held
  // stays held when it throws.
  void resize(uint64_t budget_bytes);
  // What is held now. Throws ClosedError.
  std::shared_ptr<const Snapshot> snapshot() const;
  // Gives everything back, once snapshots that are still in use have ended.
  void close();

  const FileHeader& header() const { return header_; }
  std::shared_ptr<const Source> source() const { return source_; }
  // What lies behind the blocks.
  const Appendix& appendix() const { return *appendix_; }

 private:
  uint64_t reach() const;
  uint64_t minimum_bytes() const;
  std::shared_ptr<Snapshot> hold(const std::shared_ptr<Prefix>& prefix, uint64_t budget_bytes,
                                 uint32_t checked_blocks) const;

  std::shared_ptr<const Source> source_;
  FileHeader header_;
  std::unique_ptr<const Appendix> appendix_;
  Mutex resizing_;
  mutable Mutex mutex_;  // guards what follows
  std::shared_ptr<Prefix> prefix_;
  std::shared_ptr<const Snapshot> snapshot_;
};

}  // namespace peel
