// The k largest of floats that one thread looks through, by loops that take no turn by how values
// compare: a turn guessed wrong costs more than sixteen comparisons.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <utility>

#include "simd/primitives.h"

namespace peel {

// The position of the first NaN, or -1.
inline int64_t first_nan(const float* values, int64_t n) {
  const float* at = std::find_if(values, values + n, [](float v) { return std::isnan(v); });
  return at == values + n ? -1 : at - values;
}

class FewValues {
 public:
  static constexpr int64_t kRanked = 256;  // results up to which to compare all pairs beats sorting

  // 1 <= k <= n.
  FewValues(const float* values, int64_t n, int64_t k)
      : values_(values), n_(n), k_(k), spare_(new float[static_cast<size_t>(2 * n)]) {}

  // Finds the k-th largest value; returns the position of the first NaN, or -1.
  int64_t find_threshold() {
    const float* some = values_;       // those among which it is
    int64_t count = n_, at_rank = k_;  // its rank among them, from 1
    for (int pass = 0; count > kEnough && pass < kPasses; ++pass) {
      auto [low, high] = window(some, count, at_rank);
      float* inside = spare_.get() + pass % 2 * n_;
      simd::WindowCounts counts = count_window(some, count, low, high, inside);
      if (pass == 0) {
        if (counts.nan) return first_nan(values_, n_);
        largest_ = counts.largest;
      }
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
      if (at_rank <= counts.at_high) return settle(high, at_rank);
      at_rank -= counts.at_high;
      if (at_rank > found_) return settle(low, at_rank - found_);
      some = inside;
      count = found_;
    }
    return select(some, count, at_rank);
  }

  // Calls put(at, position, value) for every selected value, `at` its place in ascending position.
  template <typename Put>
  void collect(Put&& put) const {
    uint32_t found[kPiece];
    int64_t at = 0, ties = ties_;
    for (int64_t first = 0; first < n_; first += kPiece) {
      const int64_t picked = isa_.collect_from(values_ + first, std::min(kPiece, n_ - first),
                                               threshold_, &ties, found);
      for (int64_t i = 0; i < picked; ++i) {
        const int64_t position = first + found[i];
        put(at++, position, values_[position]);
      }
    }
  }

  // Writes the positions in descending value, equal ones ascending, of at most kRanked.
  void collect_ranked(int64_t* out) const {
    float picked[kRanked];
    int64_t positions[kRanked];
    collect([&](int64_t at, int64_t position, float value) {
      picked[at] = value;
      positions[at] = position;
    });
    rank(picked, k_, [&](int64_t at, int64_t i) { out[at] = positions[i]; });
  }

  float threshold() const { return threshold_; }
  float largest() const { return largest_; }  // of more than kRanked results

 private:
  static constexpr int64_t kPiece = 4096;  // values between two looks at the results
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

  // Of the values equal to the threshold, `ties` are among the k largest.
  int64_t settle(float threshold, int64_t ties) {
    threshold_ = threshold;
    ties_ = ties;
    return -1;
  }

  int64_t select(const float* some, int64_t count, int64_t at_rank) {
    if (some == values_) {  // no pass has looked for a NaN
      if (const int64_t nan = first_nan(values_, n_); nan >= 0) return nan;
    }
    float* rest = some == spare_.get() + n_ ? spare_.get() + n_ : spare_.get();
    if (rest != some) std::copy_n(some, count, rest);
    std::nth_element(rest, rest + (at_rank - 1), rest + count, std::greater<float>());
    const float threshold = rest[at_rank - 1];
    int64_t above = 0;
    for (int64_t i = 0; i < count; ++i) above += rest[i] > threshold;
    return settle(threshold, at_rank - above);
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
    float sample[kSample], ranked[kSample] = {};  // a NaN leaves places out
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
  std::unique_ptr<float[]> spare_;  // [2, n], what windows hold
  int64_t found_ = 0;               // values inside the last window
  float threshold_ = 0;
  int64_t ties_ = 0;
  float largest_ = -kInfinity;
};

}  // namespace peel
