// Asking for memory before it is needed: rows at random places are otherwise waited for one by one.
// Always inline: to GCC a function that does nothing but prefetch has no effect, and calls to it
// go.
#pragma once

#include <cstdint>

#include "core/processor.h"

namespace peel {

#define PEEL_ALWAYS_INLINE inline __attribute__((always_inline))

// From one line that is asked for to the next. Where what is between comes with it or after it, a
// request of its own only takes the place of one for another row.
const int64_t kLineStep = processor().brings_pairs_of_lines ? 128 : 64;

// Asks for all from the first byte on. Into the second cache: rows are asked for long before they
// are read.
PEEL_ALWAYS_INLINE void prefetch(const void* from, int64_t bytes) {
  const auto* at = static_cast<const char*>(from);
  for (int64_t offset = 0; offset < bytes; offset += kLineStep) {
    __builtin_prefetch(at + offset, 0, 2);
  }
  // Where rows of several lines begin anywhere in one, they end in one more.
  if (bytes > 64 && reinterpret_cast<uintptr_t>(at) % 64 != 0) {
    __builtin_prefetch(at + bytes - 1, 0, 2);
  }
}

// Asks for every line, for reading on where several streams of them are read by turns.
PEEL_ALWAYS_INLINE void prefetch_lines(const void* from, int64_t bytes) {
  const auto* at = static_cast<const char*>(from);
  for (int64_t offset = 0; offset < bytes; offset += 64) __builtin_prefetch(at + offset);
}

}  // namespace peel
