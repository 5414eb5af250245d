#include "device/prefix.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <string>

#include "device/errors.h"

namespace peel {
namespace {

uint64_t whole_pages(uint64_t bytes) {
  const auto page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  return (bytes + page - 1) / page * page;
}

}  // namespace

Prefix::Prefix(std::shared_ptr<const Source> source, uint64_t limit)
    : source_(std::move(source)), limit_(whole_pages(std::max<uint64_t>(limit, 1))) {
  data_ = source_->in_place();
  if (data_) return;
  void* range = ::mmap(nullptr, limit_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (range == MAP_FAILED) {
    throw SourceError("cannot reserve " + std::to_string(limit_) +
                      " bytes of addresses: " + std::strerror(errno));
  }
  reserved_ = static_cast<uint8_t*>(range);
  data_ = reserved_;
}

Prefix::~Prefix() {
  if (reserved_) ::munmap(reserved_, limit_);
}

void Prefix::pin(uint64_t end) {
  const std::lock_guard<Mutex> lock(mutex_);
  ends_.insert(end);
}

void Prefix::unpin(uint64_t end) {
  const std::lock_guard<Mutex> lock(mutex_);
  ends_.erase(ends_.find(end));
  const uint64_t needed = ends_.empty() ? 0 : *ends_.rbegin();
  const uint64_t kept = whole_pages(needed);
  there_ = std::min(there_, needed);
  if (!reserved_ || committed_ <= kept) return;
  // New pages in the place of the old ones: their memory is free at once.
  ::mmap(reserved_ + kept, committed_ - kept, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
         -1, 0);
  committed_ = kept;
}

void Prefix::fetch(uint64_t end) {
  if (!reserved_) return;
  uint64_t begin;
  {
    const std::lock_guard<Mutex> lock(mutex_);
    begin = there_;
    if (end <= begin) return;
    committed_ = std::max(committed_, whole_pages(end));
  }
  if (::mprotect(reserved_, whole_pages(end), PROT_READ | PROT_WRITE) != 0) {
    throw SourceError("cannot have " + std::to_string(end) +
                      " bytes of memory: " + std::strerror(errno));
  }
  source_->read(begin, end - begin, reserved_ + begin);
  const std::lock_guard<Mutex> lock(mutex_);
  there_ = end;
}

}  // namespace peel
