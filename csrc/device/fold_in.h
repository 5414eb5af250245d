// A user's vector from the items in its history, on the rows a device holds.
//
// The formulas are those of peel_ext/device/fold_in.py: with v_j the unit vector of held row j, H
// the history's held rows and t the temperature, u starts at the normalised mean of v_i over H and
// takes `steps` times  u <- normalise(u - step_size * (sum_j softmax_j(<u, v_j> / t) v_j - mean_H
// v_i) / t). Items not held count for nothing; one that occurs twice counts twice. Of more than
// 2,048 rows the softmax runs over 2,048: in planes, where the file has rows by what they are
// worth, the first 1,024 and 64 evenly spaced runs of 16 of the others, in columns 128 such runs.
// The runs count for all rows they are drawn from. So a step takes as long under any budget;
// finding the history's rows does not.
//
// Where rows have a prior, it is the mean of their values; v_j is then the unit vector of what is
// left without it, and in the end every value of u rises by prior / sqrt(dim).
#pragma once

#include <cstdint>

#include "core/table.h"
#include "device/file_header.h"

namespace peel {

// Writes dim values, of length 1 without a prior, or zeros where no item of the history is held;
// returns how many are. The ids are in range. Memory beyond the output, given back at the end:
// `count` rows, and at most 2,048 decoded ones.
int64_t fold_in(const PackedTable& table, const int64_t* history, int64_t count,
                const FoldInSettings& settings, float* user);

// Brings a vector that was made of `known_count` items up to date with `count` more:
// u <- normalise((1 - w) u + w fold_in(new)), w = count / (known_count + count), where a prior
// stays out of the length and in the vector. The vector stays as it is where none of the new items
// is held. Returns how many are.
int64_t continue_vector(const PackedTable& table, int64_t known_count, const int64_t* items,
                        int64_t count, const FoldInSettings& settings, float* user);

// The average user of what is held: the normalised mean of the unit vectors that the softmax of
// fold_in runs over, each as often as it counts; and the prior's component. Writes dim values.
void average_user(const PackedTable& table, const FoldInSettings& settings, float* user);

}  // namespace peel
