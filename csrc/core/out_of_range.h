// Finds the first index outside [0, limit), so that a caller can name it.
#pragma once

#include <cstdint>

namespace peel {

// Position of the first of `count` values that is negative or >= limit, or -1 when all are inside.
template <typename Index>
int64_t first_out_of_range(const Index* values, int64_t count, int64_t limit);

}  // namespace peel
