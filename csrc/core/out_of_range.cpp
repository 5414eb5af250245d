#include "core/out_of_range.h"

#include <algorithm>

namespace peel {

template <typename Index>
int64_t first_out_of_range(const Index* values, int64_t count, int64_t limit) {
  constexpr int64_t kChunk = 1024;  // long enough to vectorise, short enough to search again
  for (int64_t begin = 0; begin < count; begin += kChunk) {
    const int64_t end = std::min(begin + kChunk, count);
    // The sign bit of v | (limit - 1 - v) is set for v < 0 and for v >= limit. Compilers make
    // vectors of this everywhere, while the oldest x86-64 has no comparison of 64-bit integers.
    uint64_t signs = 0;
    for (int64_t i = begin; i < end; ++i) {
      const auto value = static_cast<uint64_t>(static_cast<int64_t>(values[i]));
      signs |= value | (static_cast<uint64_t>(limit) - 1 - value);
    }
    if (!(signs >> 63)) continue;
    for (int64_t i = begin; i < end; ++i) {
      if (values[i] < 0 || static_cast<int64_t>(values[i]) >= limit) return i;
    }
  }
  return -1;
}

template int64_t first_out_of_range(const int32_t*, int64_t, int64_t);
template int64_t first_out_of_range(const int64_t*, int64_t, int64_t);

}  // namespace peel
