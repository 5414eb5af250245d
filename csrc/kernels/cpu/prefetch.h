// Asking for memory before it is needed: rows at random places are otherwise waited for one by one.
// Always inline: to GCC a function that does nothing but prefetch has no effect, and calls to it
// go.
#pragma once

#include <cstdint>

namespace peel {

#define PEEL_ALWAYS_INLINE inline __attribute__((always_inline))

PEEL_ALWAYS_INLINE void prefetch(const void* from, int64_t bytes) {
  const auto begin = reinterpret_cast<uintptr_t>(from);
  for (uintptr_t line = begin & ~uintptr_t{63}; line < begin + static_cast<uintptr_t>(bytes);
       line += 64) {
    __builtin_prefetch(reinterpret_cast<const void*>(line));
  }
}

}  // namespace peel
