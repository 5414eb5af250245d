// Asking for memory before it is needed: rows at random places are otherwise waited for one by one.
#pragma once

#include <cstdint>

namespace peel {

inline void prefetch(const void* from, int64_t bytes) {
  const auto* at = static_cast<const char*>(from);
  for (int64_t line = 0; line < bytes; line += 64) __builtin_prefetch(at + line);
}

}  // namespace peel
