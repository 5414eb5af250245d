#include "device/source.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/executor.h"
#include "device/errors.h"

namespace peel {
namespace {

constexpr int64_t kGrain = 1 << 20;  // bytes below which a second thread costs more than it saves

// Has the kernel make the pages that lie within at once, not one by one as they are written to.
// Where it cannot, or the memory is not fresh, nothing is lost.
void make_pages(uint8_t* into, uint64_t count) {
#ifdef __linux__
  constexpr int kPopulateWrite = 23;  // MADV_POPULATE_WRITE, since Linux 5.14
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(into) + page - 1) / page * page;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(into) + count) / page * page;
  if (begin < end) ::madvise(reinterpret_cast<void*>(begin), end - begin, kPopulateWrite);
#else
  (void)into, (void)count;
#endif
}

}  // namespace

void MemorySource::read(uint64_t offset, uint64_t count, uint8_t* into) const {
  if (count) std::memcpy(into, data_ + offset, count);
}

FileSource::FileSource(const std::string& path) : path_(path) {
  // Not to wait for who writes to a pipe; a file is never waited for.
  file_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
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
  parallel_for(static_cast<int64_t>(count), kGrain, [&](int64_t begin, int64_t end) {
    const auto first = static_cast<uint64_t>(begin);
    make_pages(into + first, static_cast<uint64_t>(end) - first);
    read_piece(offset + first, static_cast<uint64_t>(end) - first, into + first);
  });
}

void FileSource::read_piece(uint64_t offset, uint64_t count, uint8_t* into) const {
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
