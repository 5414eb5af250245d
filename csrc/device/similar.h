// Item to item: the rows whose directions are nearest to those of given ones.
#pragma once

#include <cstdint>

#include "core/table.h"

namespace peel {

// For each item the n rows held with the largest cosine <a, b> / (|a| |b|) of the decoded rows, the
// item left out: ids and scores [count, n] in descending score, equal scores in ascending id, then
// id -1 and score -inf. A row of zeros has cosine 0 with all; a cosine that is NaN, as of infinite
// values in a file, is never returned. Where rows have a prior, which is the mean of their values,
// a and b are what is left without it: two items are not alike for being popular. Sums are of
// doubles, in ascending columns, and rounded once: the same bits for every instruction set and
// number of threads.
//
// Returns -1, or the position of the first item that is not held, and has then written nothing.
// Memory beyond the output: one decoded tile a thread, and for each of up to 32 items a decoded row
// and n results a thread.
int64_t similar_rows(const PackedTable& table, bool has_prior, const int64_t* items, int64_t count,
                     int64_t n, int64_t* ids, float* scores);

}  // namespace peel
