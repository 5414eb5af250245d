#if !defined(_WIN32)

#if !defined(_FILE_OFFSET_BITS)
#define _FILE_OFFSET_BITS 64  // where a word has 32
#endif

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "device/errors.h"
#include "device/system.h"

namespace peel::system {

static_assert(sizeof(off_t) == 8, "files may be larger than 2 GiB");

uint64_t page_bytes() { return static_cast<uint64_t>(::sysconf(_SC_PAGESIZE)); }

uint8_t* reserve_addresses(uint64_t bytes) {
  void* range = MAP_FAILED;
  errno = ENOMEM;
  if (bytes <= SIZE_MAX) {
    range =
        ::mmap(nullptr, static_cast<size_t>(bytes), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  }
  if (range != MAP_FAILED) return static_cast<uint8_t*>(range);
  throw SourceError("cannot reserve " + std::to_string(bytes) +
                    " bytes of addresses: " + std::strerror(errno));
}

void release_addresses(uint8_t* begin, uint64_t bytes) {
  ::munmap(begin, static_cast<size_t>(bytes));
}

void take_memory(uint8_t* begin, uint64_t bytes) {
  if (::mprotect(begin, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE) == 0) return;
  throw SourceError("cannot have " + std::to_string(bytes) +
                    " bytes of memory: " + std::strerror(errno));
}

void give_memory_back(uint8_t* begin, uint64_t bytes) {
  // New pages in the place of the old ones.
  ::mmap(begin, static_cast<size_t>(bytes), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
         0);
}

void make_pages(uint8_t* begin, uint64_t bytes) {
#if defined(__linux__)
  constexpr int kPopulateWrite = 23;  // MADV_POPULATE_WRITE, since Linux 5.14
  const auto page = static_cast<uintptr_t>(page_bytes());
  const uintptr_t first = (reinterpret_cast<uintptr_t>(begin) + page - 1) / page * page;
  const uintptr_t end =
      (reinterpret_cast<uintptr_t>(begin) + static_cast<uintptr_t>(bytes)) / page * page;
  if (first < end) ::madvise(reinterpret_cast<void*>(first), end - first, kPopulateWrite);
#else
  (void)begin, (void)bytes;
#endif
}

File::File(const std::string& path) : path_(path) {
  // Not to wait for who writes to a pipe; a file is never waited for.
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file < 0) throw SourceError(path_ + ": cannot be opened: " + std::strerror(errno));
  struct stat status;
  if (::fstat(file, &status) != 0 || !S_ISREG(status.st_mode)) {
    ::close(file);
    throw SourceError(path_ + ": not a file");
  }
  file_ = file;
  size_ = static_cast<uint64_t>(status.st_size);
}

File::~File() { ::close(static_cast<int>(file_)); }

uint64_t File::read(uint64_t offset, uint64_t count, uint8_t* into) const {
  constexpr uint64_t kAtOnce = uint64_t{1} << 30;
  while (true) {
    const ssize_t got =
        ::pread(static_cast<int>(file_), into, static_cast<size_t>(std::min(count, kAtOnce)),
                static_cast<off_t>(offset));
    if (got >= 0) return static_cast<uint64_t>(got);
    if (errno != EINTR) {
      throw SourceError(path_ + ": cannot be read: " + std::strerror(errno));
    }
  }
}

}  // namespace peel::system

#endif
