// The k largest of a few floats, by loops that take no turn by how values compare: a turn guessed
// wrong costs more than sixteen comparisons.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <utility>

#include "simd/primitives.h"

namespace peel {

class FewValues {
 public:
  static constexpr int64_t kMost = 4096;

  // 1 <= k <= n <= kMost, and no value is NaN.
  FewValues(const float* values, int64_t n, int64_t k) : values_(values), n_(n), k_(k) {}

  // As largest_values writes them.
  void write_largest(bool sorted, int64_t* out) {
    int64_t ties = 0;
    const float threshold = find_threshold(&ties);
    isa_.collect_from(values_, n_, threshold, &ties, positions_);
    if (!sorted) {
      std::copy_n(positions_, k_, out);
      return;
    }
    float* picked = spare_[0];
    for (int64_t i = 0; i < k_; ++i) picked[i] = values_[positions_[i]];
    if (k_ <= kRanked) {
      rank(picked, k_, [&](int64_t at, int64_t i) { out[at] = positions_[i]; });
      return;
    }
    std::sort(positions_, positions_ + k_, [this](uint32_t a, uint32_t b) {
      return values_[a] > values_[b] || (values_[a] == values_[b] && a < b);
    });
    std::copy_n(positions_, k_, out);
  }

 private:
  static constexpr int64_t kRanked = 256;  // values up to which to compare all pairs beats sorting
  static constexpr int64_t kSample = 32;
  static constexpr int64_t kRoom = 3;     // ranks of the sample to either side of a guess
  static constexpr int64_t kEnough = 64;  // values among which a window is not worth its pass
  static constexpr int kPasses = 8;       // after which samples have misled often enough
  static constexpr float kInfinity = std::numeric_limits<float>::infinity();

  // Calls put(place, i) for each value, places counted from the largest; equal ones in order.
  template <typename Put>
  static void rank(const float* values, int64_t count, Put&& put) {
    int32_t larger[kRanked] = {}, taken[kRanked] = {};
    for (int64_t j = 0; j < count; ++j) {
      for (int64_t i = 0; i < count; ++i) larger[i] += values[j] > values[i];
    }
    for (int64_t i = 0; i < count; ++i) put(larger[i] + taken[larger[i]]++, i);
  }

  // The k-th largest value, and how many equal to it are among the k largest.
  float find_threshold(int64_t* ties) {
    const float* some = values_;       // those among which it is
    int64_t count = n_, at_rank = k_;  // its rank among them, from 1
    for (int pass = 0; count > kEnough && pass < kPasses; ++pass) {
      auto [low, high] = window(some, count, at_rank);
      float* inside = spare_[pass % 2];
      simd::WindowCounts counts = count_window(some, count, low, high, inside);
      if (at_rank <= counts.above ||
          at_rank > counts.above + counts.at_high + found_ + counts.at_low) {
        // The sample misled: it lies above the window, or else below it.
        if (at_rank <= counts.above) {
          low = high;
          high = kInfinity;
        } else {
          high = low;
          low = -kInfinity;
        }
        counts = count_window(some, count, low, high, inside);
      }
      at_rank -= counts.above;
      if (at_rank <= counts.at_high) {
        *ties = at_rank;
        return high;
      }
      at_rank -= counts.at_high;
      if (at_rank > found_) {
        *ties = at_rank - found_;
        return low;
      }
      some = inside;
      count = found_;
    }
    float* rest = some == spare_[1] ? spare_[1] : spare_[0];
    if (rest != some) std::copy_n(some, count, rest);
    std::nth_element(rest, rest + (at_rank - 1), rest + count, std::greater<float>());
    const float threshold = rest[at_rank - 1];
    *ties = at_rank;
    for (int64_t i = 0; i < count; ++i) *ties -= rest[i] > threshold;
    return threshold;
  }

  simd::WindowCounts count_window(const float* some, int64_t count, float low, float high,
                                  float* inside) {
    simd::WindowCounts counts;
    counts.largest = -kInfinity;
    found_ = isa_.collect_between(some, count, low, high, inside, &counts);
    return counts;
  }

  // Two of the values that probably have the one of a rank between them; an infinity where the
  // sample has none.
  static std::pair<float, float> window(const float* some, int64_t count, int64_t at_rank) {
    float sample[kSample], ranked[kSample];
    for (int64_t i = 0; i < kSample; ++i) sample[i] = some[i * count / kSample];
    rank(sample, kSample, [&](int64_t at, int64_t i) { ranked[at] = sample[i]; });
    const int64_t guess = at_rank * kSample / count;
    return {guess + kRoom < kSample ? ranked[guess + kRoom] : -kInfinity,
            guess - kRoom >= 0 ? ranked[guess - kRoom] : kInfinity};
  }

  const float* values_;
  int64_t n_;
  int64_t k_;
  const simd::Primitives& isa_ = simd::primitives();
  int64_t found_ = 0;  // values inside the last window
  uint32_t positions_[kMost];
  float spare_[2][kMost];
};

}  // namespace peel
