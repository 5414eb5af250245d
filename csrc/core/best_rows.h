// The n best rows seen by one user.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

namespace peel {

class BestRows {
 public:
  explicit BestRows(int64_t n) : n_(static_cast<size_t>(n)) {}

  void offer(float score, int64_t id) {
    const Scored row{score, id};
    if (n_ <= kInOrder) {
      insert(row);
    } else if (rows_.size() < n_) {
      rows_.push_back(row);
      std::push_heap(rows_.begin(), rows_.end(), Better{});
    } else if (is_better(row, rows_.front())) {
      replace_worst(row);
    }
  }
  // Scores below this cannot enter.
  float threshold() const {
    if (rows_.size() < n_) return -std::numeric_limits<float>::infinity();
    return (n_ <= kInOrder ? rows_.back() : rows_.front()).score;
  }
  void merge(const BestRows& other) {
    for (const Scored& row : other.rows_) offer(row.score, row.id);
  }
  // Best first; ends with id -1 and score -inf.
  void write(float* scores, int64_t* indices) {
    if (n_ > kInOrder) std::sort_heap(rows_.begin(), rows_.end(), Better{});
    for (size_t i = 0; i < n_; ++i) {
      const bool filled = i < rows_.size();
      scores[i] = filled ? rows_[i].score : -std::numeric_limits<float>::infinity();
      indices[i] = filled ? rows_[i].id : -1;
    }
  }

 private:
  static constexpr size_t kInOrder = 128;  // rows up to which moving them is cheaper than a heap

  struct Scored {
    float score;
    int64_t id;
  };
  static bool is_better(const Scored& a, const Scored& b) {
    return a.score > b.score || (a.score == b.score && a.id < b.id);
  }
  struct Better {
    bool operator()(const Scored& a, const Scored& b) const { return is_better(a, b); }
  };

  void insert(const Scored& row) {
    if (rows_.size() < n_) {
      rows_.push_back(row);
    } else if (!is_better(row, rows_.back())) {
      return;
    }
    size_t at = rows_.size() - 1;
    for (; at > 0 && row.score > rows_[at - 1].score; --at) rows_[at] = rows_[at - 1];
    for (; at > 0 && is_better(row, rows_[at - 1]); --at) rows_[at] = rows_[at - 1];
    rows_[at] = row;
  }

  // In one pass from the top down, half the work of taking one out and putting one in.
  void replace_worst(const Scored& row) {
    size_t at = 0;
    for (size_t child = 1; child < rows_.size(); child = 2 * at + 1) {
      if (child + 1 < rows_.size() && is_better(rows_[child], rows_[child + 1])) ++child;
      if (is_better(rows_[child], row)) break;
      rows_[at] = rows_[child];
      at = child;
    }
    rows_[at] = row;
  }

  size_t n_;
  std::vector<Scored> rows_;  // best first; of many a heap, the worst on top
};

}  // namespace peel
