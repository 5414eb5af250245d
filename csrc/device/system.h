// What an operating system does for this library: files, and ranges of addresses. system_posix.cpp
// and system_windows.cpp.
#pragma once

#include <cstdint>
#include <string>

namespace peel::system {

// ---- addresses ----

// Bytes that come and go together.
uint64_t page_bytes();
// A range of whole pages that nobody else gets, and no memory in it yet. Throws SourceError.
uint8_t* reserve_addresses(uint64_t bytes);
void release_addresses(uint8_t* begin, uint64_t bytes);
// Memory, for the first whole pages of a range; some of them may have it already. Throws
// SourceError.
void take_memory(uint8_t* begin, uint64_t bytes);
// Gives the memory of whole pages back at once; the addresses stay.
void give_memory_back(uint8_t* begin, uint64_t bytes);
// Has the pages that lie within made at once, not one by one as they are written to. Where the
// system cannot, or the memory is not fresh, nothing is lost.
void make_pages(uint8_t* begin, uint64_t bytes);

// ---- files ----

// A file open for reading. Its reads may come from any thread. All throw SourceError.
class File {
 public:
  explicit File(const std::string& path);  // in UTF-8
  ~File();
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  uint64_t size() const { return size_; }
  // Fills `into` with at most `count` of the bytes at an offset; returns how many, 0 at the file's
  // end.
  uint64_t read(uint64_t offset, uint64_t count, uint8_t* into) const;

 private:
  std::string path_;
  intptr_t file_ = -1;
  uint64_t size_ = 0;
};

}  // namespace peel::system
