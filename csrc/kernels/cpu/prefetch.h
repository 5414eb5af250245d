// Asking for memory before it is needed: rows at random places are otherwise waited for one by one.
// Always inline: to GCC a function that does nothing but prefetch has no effect, and calls to it
// go.
#pragma once

#include <cstdint>

namespace peel {

#define PEEL_ALWAYS_INLINE inline __attribute__((always_inline))

// Asks for every second line from the first byte on: what is between comes with it or after it, and
// a request of its own only takes the place of one for another row. Into the second cache: rows are
// asked for long before they are read.
PEEL_ALWAYS_INLINE void prefetch(const void* from, int64_t bytes) {
  const auto* at = static_cast<const char*>(from);
  for (int64_t offset = 0; offset < bytes; offset += 128) __builtin_prefetch(at + offset, 0, 2);
}

// Asks for every line, for reading on where several streams of them are read by turns.
PEEL_ALWAYS_INLINE void prefetch_lines(const void* from, int64_t bytes) {
  const auto* at = static_cast<const char*>(from);
  for (int64_t offset = 0; offset < bytes; offset += 64) __builtin_prefetch(at + offset);
}

}  // namespace peel
