#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "check.h"
#include "core/executor.h"
#include "kernels/gathered_score.h"

namespace {

struct Result {
  std::vector<int64_t> indices;
  std::vector<float> scores;
  bool operator==(const Result& other) const {
    return indices == other.indices && scores == other.scores;
  }
};

// Small integers, so that every order of summation gives the same exact score and ties abound.
std::vector<float> integers(std::mt19937_64& random, int64_t count) {
  std::vector<float> values(count);
  for (auto& value : values) value = static_cast<float>(static_cast<int>(random() % 5) - 2);
  return values;
}

Result plain(const std::vector<float>& users, const std::vector<float>& table, int64_t dim,
             int64_t n, const std::vector<int64_t>& candidates,
             const std::vector<std::vector<int64_t>>& seen) {
  Result result;
  for (size_t u = 0; u < seen.size(); ++u) {
    std::vector<std::pair<float, int64_t>> all;
    for (const int64_t row : candidates) {
      if (std::binary_search(seen[u].begin(), seen[u].end(), row)) continue;
      float score = 0;
      for (int64_t d = 0; d < dim; ++d) score += users[u * dim + d] * table[row * dim + d];
      all.emplace_back(-score, row);
    }
    std::sort(all.begin(), all.end());
    for (int64_t i = 0; i < n; ++i) {
      const bool filled = i < static_cast<int64_t>(all.size());
      result.indices.push_back(filled ? all[i].second : -1);
      result.scores.push_back(filled ? -all[i].first : -std::numeric_limits<float>::infinity());
    }
  }
  return result;
}

void agrees(std::mt19937_64& random, int64_t num_users, int64_t rows, int64_t dim, int64_t n,
            bool subset) {
  const std::vector<float> users = integers(random, num_users * dim);
  const std::vector<float> table = integers(random, rows * dim);
  std::vector<int64_t> candidates, indptr{0}, flat;
  for (int64_t row = 0; row < rows; ++row) {
    if (!subset || random() % 2) candidates.push_back(row);
  }
  std::vector<std::vector<int64_t>> seen(num_users);
  for (auto& list : seen) {
    for (int64_t row = 0; row < rows; ++row) {
      if (random() % 4 == 0) list.push_back(row);
    }
    flat.insert(flat.end(), list.begin(), list.end());
    indptr.push_back(static_cast<int64_t>(flat.size()));
  }
  flat.push_back(0);  // never an empty address
  const Result want = plain(users, table, dim, n, candidates, seen);
  candidates.push_back(0);
  const peel::DenseRows source{table.data(),
                               rows,
                               dim,
                               dim,
                               subset ? candidates.data() : nullptr,
                               static_cast<int64_t>(candidates.size()) - 1};
  for (const int threads : {1, 2, 5}) {
    peel::set_num_threads(threads);
    Result got{std::vector<int64_t>(num_users * n), std::vector<float>(num_users * n)};
    const peel::ScoreArgs args{users.data(),      num_users,         dim,
                               indptr.data(),     flat.data(),       n,
                               got.scores.data(), got.indices.data()};
    peel::gathered_score(source, args);
    CHECK(got == want);
  }
}

void nan_is_never_returned() {
  const std::vector<float> table{1, std::nanf(""), 2};
  const std::vector<float> user{1};
  std::vector<float> scores(3);
  std::vector<int64_t> indices(3);
  peel::ScoreArgs args;
  args.users = user.data();
  args.num_users = 1;
  args.user_stride = 1;
  args.n = 3;
  args.scores = scores.data();
  args.indices = indices.data();
  peel::gathered_score(peel::DenseRows{table.data(), 3, 1, 1, nullptr, 0}, args);
  CHECK(indices == (std::vector<int64_t>{2, 0, -1}));
}

}  // namespace

int main() {
  std::mt19937_64 random = seeded();
  for (const int64_t users : {0, 1, 2, 5, 300}) {
    for (const int64_t rows : {0, 1, 31, 32, 33, 700}) {
      for (const int64_t n : {1, 10, 40}) {
        agrees(random, users, rows, 1 + static_cast<int64_t>(random() % 20), n, false);
        agrees(random, users, rows, 1 + static_cast<int64_t>(random() % 20), n, true);
      }
    }
  }
  agrees(random, 1, 5000, 3, 1000, false);
  nan_is_never_returned();
}
