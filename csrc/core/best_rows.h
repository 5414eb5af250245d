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
    if (heap_.size() < n_) {
      heap_.push_back({score, id});
      std::push_heap(heap_.begin(), heap_.end(), better);
    } else if (better({score, id}, heap_.front())) {
      replace_worst({score, id});
    }
  }
  // Scores below this cannot enter.
  float threshold() const {
    return heap_.size() < n_ ? -std::numeric_limits<float>::infinity() : heap_.front().score;
  }
  void merge(const BestRows& other) {
    for (const Scored& row : other.heap_) offer(row.score, row.id);
  }
  // Best first; ends with id -1 and score -inf.
  void write(float* scores, int64_t* indices) {
    std::sort_heap(heap_.begin(), heap_.end(), better);
    for (size_t i = 0; i < n_; ++i) {
      const bool filled = i < heap_.size();
      scores[i] = filled ? heap_[i].score : -std::numeric_limits<float>::infinity();
      indices[i] = filled ? heap_[i].id : -1;
    }
  }

 private:
  struct Scored {
    float score;
    int64_t id;
  };
  static bool better(const Scored& a, const Scored& b) {
    return a.score > b.score || (a.score == b.score && a.id < b.id);
  }

  // In one pass from the top down, half the work of taking one out and putting one in.
  void replace_worst(const Scored& row) {
    size_t at = 0;
    for (size_t child = 1; child < heap_.size(); child = 2 * at + 1) {
      if (child + 1 < heap_.size() && better(heap_[child], heap_[child + 1])) ++child;
      if (better(heap_[child], row)) break;
      heap_[at] = heap_[child];
      at = child;
    }
    heap_[at] = row;
  }

  size_t n_;
  std::vector<Scored> heap_;  // the worst on top
};

}  // namespace peel
