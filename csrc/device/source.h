// Where the bytes of a .peel file come from.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "device/system.h"

namespace peel {

class Source {
 public:
  virtual ~Source() = default;
  // Bytes there are: of a whole file, or of as much of one as has arrived.
  virtual uint64_t size() const = 0;
  // Fills `into` with [offset, offset + count), which lies within size(). Throws SourceError.
  virtual void read(uint64_t offset, uint64_t count, uint8_t* into) const = 0;
  // All bytes, where they lie in memory already and may be used there; else null.
  virtual const uint8_t* in_place() const { return nullptr; }
};

// The caller's memory, a mapped file for example: used in place, aligned to 8 bytes, and there as
// long as the source.
class MemorySource : public Source {
 public:
  MemorySource(const uint8_t* data, uint64_t size) : data_(data), size_(size) {}
  uint64_t size() const override { return size_; }
  void read(uint64_t offset, uint64_t count, uint8_t* into) const override;
  const uint8_t* in_place() const override { return data_; }

 private:
  const uint8_t* data_;
  uint64_t size_;
};

// A file that stays open. A new file of the same name does not disturb it; one that was shortened
// in place is an error when what is gone is wanted.
class FileSource : public Source {
 public:
  // `path` is in UTF-8.
  explicit FileSource(const std::string& path) : path_(path), file_(path) {}
  uint64_t size() const override { return file_.size(); }
  void read(uint64_t offset, uint64_t count, uint8_t* into) const override;

 private:
  void read_piece(uint64_t offset, uint64_t count, uint8_t* into) const;

  std::string path_;
  system::File file_;
};

}  // namespace peel
