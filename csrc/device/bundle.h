// A bundle: the .peel files of many users in one, found by the user's id (docs/format.md).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/mutex.h"
#include "device/source.h"

namespace peel {

// Where a user's .peel file lies in a bundle, and what its header says.
struct UserFile {
  uint64_t offset = 0;
  uint64_t size = 0;
  uint64_t blocks_end = 0;  // bytes from its first to the end of its last block
  uint32_t header_checksum = 0;
};

// Looks an id up, in UTF-8: reads the first bytes, and one page of the index unless it is in them.
// Throws FormatError, SourceError, and NoUserError where the bundle has no file of this user.
UserFile find_user(const Source& bundle, const std::string& user);

// A user's file, as far as it has arrived. It is as wrong as a damaged one where it is not the one
// that the index means.
class UserSource : public Source {
 public:
  // The first read asks for `ahead` bytes, as far as blocks go, so that a caller who wants them
  // all makes one request. They are kept until they have all been taken.
  UserSource(std::shared_ptr<const Source> bundle, const UserFile& file, uint64_t ahead);
  uint64_t size() const override { return size_; }
  void read(uint64_t offset, uint64_t count, uint8_t* into) const override;
  const uint8_t* in_place() const override;

 private:
  std::shared_ptr<const Source> bundle_;
  uint64_t offset_;
  uint64_t size_;
  mutable Mutex mutex_;  // guards what follows
  mutable std::vector<uint8_t> ahead_;
};

}  // namespace peel
