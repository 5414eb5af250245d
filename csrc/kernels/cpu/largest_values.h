// The k largest of floats: a sample guesses the threshold, one pass proves it, one collects.
#pragma once

#include <cstdint>

namespace peel {

constexpr int64_t kFewValues = int64_t{1} << 18;  // up to which one thread finds the largest

// Writes the positions of the k largest of n values, 0 <= k <= n < 2^32, ties to the lower
// position: in descending value, equal ones in ascending position, if `sorted`, else in ascending
// position. Returns -1, or the position of the first NaN; `out` is then unspecified.
int64_t largest_values(const float* values, int64_t n, int64_t k, bool sorted, int64_t* out);

}  // namespace peel
