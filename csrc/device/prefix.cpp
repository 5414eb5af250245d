#include "device/prefix.h"

#include <algorithm>
#include <mutex>

#include "device/system.h"

namespace peel {
namespace {

uint64_t whole_pages(uint64_t bytes) {
  const uint64_t page = system::page_bytes();
  return (bytes + page - 1) / page * page;
}

}  // namespace

Prefix::Prefix(std::shared_ptr<const Source> source, uint64_t limit)
    : source_(std::move(source)), limit_(whole_pages(std::max<uint64_t>(limit, 1))) {
  data_ = source_->in_place();
  if (data_) return;
  reserved_ = system::reserve_addresses(limit_);
  data_ = reserved_;
}

Prefix::~Prefix() {
  if (reserved_) system::release_addresses(reserved_, limit_);
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
  system::give_memory_back(reserved_ + kept, committed_ - kept);
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
  system::take_memory(reserved_, whole_pages(end));
  source_->read(begin, end - begin, reserved_ + begin);
  const std::lock_guard<Mutex> lock(mutex_);
  there_ = end;
}

}  // namespace peel
