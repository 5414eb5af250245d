#include "device/source.h"

#include <cstring>

#include "core/executor.h"
#include "device/errors.h"

namespace peel {
namespace {

constexpr int64_t kGrain = 1 << 20;  // bytes below which a second thread costs more than it saves

}  // namespace

void MemorySource::read(uint64_t offset, uint64_t count, uint8_t* into) const {
  if (count) std::memcpy(into, data_ + offset, static_cast<size_t>(count));
}

void FileSource::read(uint64_t offset, uint64_t count, uint8_t* into) const {
  parallel_for(static_cast<int64_t>(count), kGrain, [&](int64_t begin, int64_t end) {
    const auto first = static_cast<uint64_t>(begin);
    system::make_pages(into + first, static_cast<uint64_t>(end) - first);
    read_piece(offset + first, static_cast<uint64_t>(end) - first, into + first);
  });
}

void FileSource::read_piece(uint64_t offset, uint64_t count, uint8_t* into) const {
  while (count > 0) {
    const uint64_t got = file_.read(offset, count, into);
    if (got == 0) {
      throw SourceError(path_ + ": was shortened while in use: it had " + std::to_string(size()) +
                        " bytes, and ends before byte " + std::to_string(offset + count));
    }
    offset += got;
    count -= got;
    into += got;
  }
}

}  // namespace peel
