#include "device/source.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "device/errors.h"

namespace peel {

void MemorySource::read(uint64_t offset, uint64_t count, uint8_t* into) const {
  if (count) std::memcpy(into, data_ + offset, count);
}

FileSource::FileSource(const std::string& path) : path_(path) {
  file_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file_ < 0) throw SourceError(path_ + ": cannot be opened: " + std::strerror(errno));
  struct stat status;
  if (::fstat(file_, &status) != 0 || !S_ISREG(status.st_mode)) {
    ::close(file_);
    throw SourceError(path_ + ": not a file");
  }
  size_ = static_cast<uint64_t>(status.st_size);
}

FileSource::~FileSource() { ::close(file_); }

void FileSource::read(uint64_t offset, uint64_t count, uint8_t* into) const {
  constexpr uint64_t kAtOnce = uint64_t{1} << 30;
  while (count > 0) {
    const ssize_t got = ::pread(file_, into, std::min(count, kAtOnce), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw SourceError(path_ + ": cannot be read: " + std::strerror(errno));
    if (got == 0) {
      throw SourceError(path_ + ": was shortened while in use: it had " + std::to_string(size_) +
                        " bytes, and ends before byte " + std::to_string(offset + count));
    }
    offset += static_cast<uint64_t>(got);
    count -= static_cast<uint64_t>(got);
    into += got;
  }
}

}  // namespace peel
