#include "device/recommender.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <utility>

#include "core/best_rows.h"
#include "core/packed_rows.h"
#include "core/sizes.h"
#include "device/fold_in.h"
#include "kernels/gathered_score.h"
#include "kernels/grouped_lookup.h"

namespace peel {

void check_id(const std::string& name, int64_t id, int64_t num_embeddings) {
  if (id >= 0 && id < num_embeddings) return;
  throw std::out_of_range(name + " is " + std::to_string(id) + ", expected an id in [0, " +
                          std::to_string(num_embeddings) + ")");
}

void check_ids(const char* name, const int64_t* ids, int64_t count, int64_t num_embeddings) {
  for (int64_t i = 0; i < count; ++i) {
    if (ids[i] >= 0 && ids[i] < num_embeddings) continue;
    check_id(std::string(name) + "[" + std::to_string(i) + "]", ids[i], num_embeddings);
  }
}

namespace {

// Of a value that is not finite: std::to_string would bring all of printf into small builds.
const char* text_of(float value) { return std::isnan(value) ? "nan" : value > 0 ? "inf" : "-inf"; }

}  // namespace

void check_vectors(const char* name, const float* vectors, int64_t count, int64_t dim) {
  for (int64_t i = 0; i < count * dim; ++i) {
    if (std::isfinite(vectors[i])) continue;
    throw std::invalid_argument(std::string(name) + " must be finite, got " + text_of(vectors[i]) +
                                " at " + std::to_string(i));
  }
}

void check_n(int64_t n) {
  if (n < 1) throw std::invalid_argument("n must be at least 1, got " + std::to_string(n));
}

void score_rows(const Snapshot& snapshot, const float* user, std::vector<int64_t> exclude,
                int64_t n, int64_t* ids, float* scores) {
  check_n(n);
  std::sort(exclude.begin(), exclude.end());
  const int64_t indptr[2] = {0, static_cast<int64_t>(exclude.size())};
  ScoreArgs args;
  args.users = user;
  args.num_users = 1;
  args.user_stride = snapshot.table().geometry.dim;
  args.exclude_indptr = indptr;
  args.exclude = exclude.data();
  args.n = n;
  args.scores = scores;
  args.indices = ids;
  gathered_score(snapshot.table(), args);
}

namespace {

void check_shipped(const ShippedList& shipped) {
  check_vectors("shipped_scores", shipped.scores, shipped.count, 1);
  std::vector<int64_t> ids(shipped.ids, shipped.ids + shipped.count);
  std::sort(ids.begin(), ids.end());
  const auto twice = std::adjacent_find(ids.begin(), ids.end());
  if (twice == ids.end()) return;
  throw std::invalid_argument("shipped must name an id once, got " + std::to_string(*twice) +
                              " twice");
}

}  // namespace

void score_with_shipped(const Snapshot& snapshot, const float* user, std::vector<int64_t> exclude,
                        const ShippedList& shipped, int64_t n, int64_t* ids, float* scores) {
  check_shipped(shipped);
  score_rows(snapshot, user, exclude, n, ids, scores);
  std::sort(exclude.begin(), exclude.end());
  BestRows best(n);
  for (int64_t i = 0; i < n && ids[i] >= 0; ++i) best.offer(scores[i], ids[i]);
  for (int64_t i = 0; i < shipped.count; ++i) {
    const int64_t id = shipped.ids[i];
    if (holds_row(snapshot.table(), id)) continue;
    if (std::binary_search(exclude.begin(), exclude.end(), id)) continue;
    best.offer(shipped.scores[i], id);
  }
  best.write(scores, ids);
}

void score_items(const Snapshot& snapshot, const float* user, const int64_t* ids, int64_t count,
                 float* scores) {
  const int64_t dim = snapshot.table().geometry.dim;
  std::vector<float> rows(
      memory_size(sizeof(float) * static_cast<uint64_t>(count) * static_cast<uint64_t>(dim)) /
      sizeof(float));
  grouped_lookup(snapshot.table(), LookupPairs<int64_t>{count, ids, nullptr, 0}, rows.data());
  for (int64_t i = 0; i < count; ++i) {
    double score = 0;
    for (int64_t d = 0; d < dim; ++d) {
      score += static_cast<double>(user[d]) * rows[static_cast<size_t>(i * dim + d)];
    }
    scores[i] = static_cast<float>(score);
  }
}

bool average_user(const PeelFile& embedding, const Snapshot& snapshot, float* user) {
  const std::vector<float> centroid = embedding.appendix().own_centroid();
  if (centroid.empty()) {
    average_user(snapshot.table(), embedding.header().fold_in, user);
    return false;
  }
  std::copy(centroid.begin(), centroid.end(), user);
  return true;
}

bool recommend(const PeelFile& embedding, const int64_t* history, int64_t count, int64_t n,
               int64_t* ids, float* scores) {
  const std::shared_ptr<const Snapshot> snapshot = embedding.snapshot();
  const FileHeader& header = embedding.header();
  std::vector<float> user(static_cast<size_t>(header.geometry.dim));
  bool known = true;
  if (fold_in(snapshot->table(), history, count, header.fold_in, user.data()) == 0) {
    known = average_user(embedding, *snapshot, user.data());
  }
  score_rows(*snapshot, user.data(), std::vector<int64_t>(history, history + count), n, ids,
             scores);
  return known;
}

}  // namespace peel
