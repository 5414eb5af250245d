// What both interfaces, C and Python, do with an opened file: checks of meaning, then the kernels.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "device/peel_file.h"

namespace peel {

// Throws std::invalid_argument, naming what is wrong, for ids outside the table, vectors that are
// not finite, and n below 1.
void check_id(const std::string& name, int64_t id, int64_t num_embeddings);
void check_ids(const char* name, const int64_t* ids, int64_t count, int64_t num_embeddings);
void check_vectors(const char* name, const float* vectors, int64_t count, int64_t dim);
void check_n(int64_t n);

// The n best held rows for one user without the ids to exclude, in any order.
void score_rows(const Snapshot& snapshot, const float* user, std::vector<int64_t> exclude,
                int64_t n, int64_t* ids, float* scores);
// Distinct ids that a server ranked for a user, and their scores, which are finite.
struct ShippedList {
  const int64_t* ids = nullptr;
  const float* scores = nullptr;
  int64_t count = 0;
};

// The same with a list: what of it is not held, and not to exclude, competes with the score it has
// there, as peel_ext/device/shipped_list.py says. Throws std::invalid_argument for a list that
// names an id twice, or has a score that is not finite.
void score_with_shipped(const Snapshot& snapshot, const float* user, std::vector<int64_t> exclude,
                        const ShippedList& shipped, int64_t n, int64_t* ids, float* scores);
// Scores of given ids; 0 for rows not held.
void score_items(const Snapshot& snapshot, const float* user, const int64_t* ids, int64_t count,
                 float* scores);

// The vector of the average user of the file's group, or, where the file has no centroids to tell
// that by, of what is held; false then.
bool average_user(const PeelFile& embedding, const Snapshot& snapshot, float* user);

// Folds the history in and scores, all on one snapshot. Where no item of the history is held, the
// user is the average one of its group; where the file has no centroid of that, the average one of
// what is held, and false is returned.
bool recommend(const PeelFile& embedding, const int64_t* history, int64_t count, int64_t n,
               int64_t* ids, float* scores);

}  // namespace peel
