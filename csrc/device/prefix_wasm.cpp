// The prefix of a system that can neither reserve addresses nor give memory back below them: room
// for what is fetched first, and for no more. Whoever wants another budget opens the file anew,
// which costs no download where the bytes held are its source.
#include <algorithm>
#include <cstdlib>
#include <new>

#include "device/errors.h"
#include "device/prefix.h"

namespace peel {

Prefix::Prefix(std::shared_ptr<const Source> source, uint64_t limit)
    : source_(std::move(source)), limit_(limit) {
  data_ = source_->in_place();
}

Prefix::~Prefix() { std::free(reserved_); }

void Prefix::pin(uint64_t end) { ends_.insert(end); }

void Prefix::unpin(uint64_t end) { ends_.erase(ends_.find(end)); }

void Prefix::fetch(uint64_t end) {
  if (source_->in_place() || end <= there_) return;
  if (reserved_)
    throw SourceError("memory for " + std::to_string(end) + " bytes has no room to grow");
  constexpr uint64_t kLine = 64;
  const uint64_t room = (std::max<uint64_t>(end, 1) + kLine - 1) / kLine * kLine;
  if (room > SIZE_MAX / 2) throw std::bad_alloc();
  reserved_ = static_cast<uint8_t*>(std::aligned_alloc(kLine, static_cast<size_t>(room)));
  if (!reserved_) throw std::bad_alloc();
  source_->read(0, end, reserved_);
  data_ = reserved_;
  there_ = end;
}

}  // namespace peel
