// gathered_score: the best rows of a table for each user vector, fused decode, dot and top n.
//
// For each user u: the n largest of <users[u], row>, over
//   dense   the rows of an fp32 table, all or a candidate list;
//   packed  the rows a Personalized Elastic Embedding holds, decoded (what is not held of a row
//           counts as zero; rows with no block held are no candidates),
// without the user's excluded ids. Ids come out in descending score, equal scores in ascending id;
// where fewer rows remain than n, the rest is id -1 and score -inf. A score that is NaN is never
// returned. No users x items matrix is made: memory beyond the output is O(users * n) per thread.
//
// A score does not depend on the number of threads, nor on the users and rows scored beside it.
// The caller has checked shapes, 1 <= n, ascending candidates and excluded ids.
#pragma once

#include <cstdint>

#include "core/table.h"

namespace peel {

struct DenseRows {
  const float* weight = nullptr;  // [num_embeddings, dim], rows weight_stride elements apart
  int64_t num_embeddings = 0;
  int64_t dim = 0;
  int64_t weight_stride = 0;
  const int64_t* candidates = nullptr;  // ascending, in range; null: all rows
  int64_t num_candidates = 0;
};

struct ScoreArgs {
  const float* users = nullptr;  // [num_users, dim], rows user_stride elements apart
  int64_t num_users = 0;
  int64_t user_stride = 0;
  const int64_t* exclude_indptr = nullptr;  // [num_users + 1], or null: nothing is excluded
  const int64_t* exclude = nullptr;         // ascending within each user
  int64_t n = 0;
  float* scores = nullptr;     // out [num_users, n]
  int64_t* indices = nullptr;  // out [num_users, n]
};

void gathered_score(const DenseRows& rows, const ScoreArgs& args);
void gathered_score(const PackedTable& table, const ScoreArgs& args);

}  // namespace peel
