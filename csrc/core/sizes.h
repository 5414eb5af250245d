// Sizes that a file or a caller states in 64 bits, where memory may have fewer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>

namespace peel {

// The same number. Throws std::bad_alloc where it is more than there are addresses.
inline size_t memory_size(uint64_t bytes) {
  if (bytes > SIZE_MAX) throw std::bad_alloc();
  return static_cast<size_t>(bytes);
}

}  // namespace peel
