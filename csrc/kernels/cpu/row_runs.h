// Pairs (row, position) brought together by row: what every kernel needs that adds up duplicates.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "core/executor.h"
#include "core/records.h"

namespace peel {

// Positions of equal rows, in ascending row and, within one, ascending position.
class RowRuns {
 public:
  // rows[m] in [0, num_rows), or negative for none. Both counts are below 2^32 or sorted plainly.
  RowRuns(const int64_t* rows, int64_t count, int64_t num_rows) {
    constexpr int64_t kLimit = int64_t{1} << 32;
    if (count >= kLimit || num_rows > kLimit) {
      for (int64_t m = 0; m < count; ++m) {
        if (rows[m] >= 0) wide_.emplace_back(rows[m], m);
      }
      std::sort(wide_.begin(), wide_.end());
      return;
    }
    records_.reserve(static_cast<size_t>(count));
    for (int64_t m = 0; m < count; ++m) {
      if (rows[m] >= 0) {
        records_.push_back(static_cast<uint64_t>(rows[m]) << 32 | static_cast<uint64_t>(m));
      }
    }
    // Few are compared in less time than every digit is counted; no two records are equal.
    constexpr size_t kFew = 256;
    if (records_.size() <= kFew) {
      std::sort(records_.begin(), records_.end());
    } else {
      sort_records(records_, static_cast<uint32_t>(std::max<int64_t>(num_rows, 1) - 1));
    }
  }

  int64_t size() const { return static_cast<int64_t>(records_.size() + wide_.size()); }
  int64_t row(int64_t at) const {
    return wide_.empty() ? static_cast<int64_t>(records_[static_cast<size_t>(at)] >> 32)
                         : wide_[static_cast<size_t>(at)].first;
  }
  int64_t position(int64_t at) const {
    return wide_.empty() ? static_cast<int64_t>(records_[static_cast<size_t>(at)] & 0xffffffffu)
                         : wide_[static_cast<size_t>(at)].second;
  }

  // Calls run(first, last) for every run [first, last) of one row, in parallel: a thread has the
  // runs that begin in its share, so no two threads meet in one row.
  template <typename Run>
  void for_each(int64_t grain, Run&& run) const {
    parallel_for(size(), grain, [&](int64_t begin, int64_t end) {
      int64_t at = begin;
      while (at > 0 && at < end && row(at) == row(at - 1)) ++at;
      while (at < end) {
        const int64_t first = at;
        while (at < size() && row(at) == row(first)) ++at;
        run(first, at);
      }
    });
  }

 private:
  std::vector<uint64_t> records_;
  std::vector<std::pair<int64_t, int64_t>> wide_;
};

}  // namespace peel
