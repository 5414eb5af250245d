// Asking for memory before it is needed: rows at random places are otherwise waited for one by one.
// Always inline: to GCC a function that does nothing but prefetch has no effect, and calls to it
// go.
#pragma once

#include <cstdint>

namespace peel {

#define PEEL_ALWAYS_INLINE inline __attribute__((always_inline))

// Asks for one line of every pair: x86 processors fetch the other one with it or after it, and a
// request of its own would only take the place of one for another row.
PEEL_ALWAYS_INLINE void prefetch(const void* from, int64_t bytes) {
  const auto begin = reinterpret_cast<uintptr_t>(from);
  for (uintptr_t pair = begin & ~uintptr_t{127}; pair < begin + static_cast<uintptr_t>(bytes);
       pair += 128) {
    __builtin_prefetch(reinterpret_cast<const void*>(pair));
  }
}

}  // namespace peel
