// Upper bounds of the scores of dense rows for a few users: summed in any order they take a third
// of the time of the scores themselves, and most rows cannot enter a user's n best.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/cpu/dense_tiles.h"

namespace peel {

// For each user the score of a row x is at most (its products summed in any order) + c |u| |x|,
// where c covers the roundings of both. With any t > 0, |x| <= (|x|^2 / t + t) / 2, so the squares
// can be added up with the products; t is the norm of a typical row.
class DenseBounds {
 public:
  DenseBounds(const DenseTiles& tiles, const float* users, int64_t num_users, int64_t user_stride) {
    if (num_users > kUsers || tiles.count() < kTiles) return;
    const auto dim = static_cast<double>(tiles.dim());
    const double typical = typical_norm(tiles);
    for (int64_t u = 0; u < num_users; ++u) {
      const float* user = users + u * user_stride;
      const double norm = norm_of(user, tiles.dim());
      const double room = (4 * dim + 64) * std::ldexp(1.0, -24) * norm;
      // Beyond, roundings may be no longer relative, or sums overflow.
      if (!(norm > kSmallest && norm < kLargest)) {
        bounds_.clear();
        return;
      }
      bounds_.push_back({user, static_cast<float>(room / (2 * typical)),
                         static_cast<float>(room * typical / 2 + 1e-37)});
    }
  }

  // As ScoreBounds has it.
  uint32_t may_reach(const DenseTiles::Reader& reader, const std::vector<float>& thresholds,
                     int few) const {
    if (bounds_.empty()) return ~0u;
    uint32_t rows = 0;
    for (size_t u = 0; u < bounds_.size() && __builtin_popcount(rows) <= few; ++u) {
      const Bound& bound = bounds_[u];
      rows |= reader.bound(bound.user, bound.slack, bound.least, thresholds[u]);
    }
    return rows;
  }

 private:
  static constexpr int64_t kUsers = 1;  // for more, scoring is cheaper
  static constexpr int64_t kTiles = 4;  // with fewer, every row is among the best for a while
  static constexpr int64_t kSample = 16;
  static constexpr double kSmallest = 1e-12, kLargest = 1e12;

  struct Bound {
    const float* user;
    float slack;
    float least;
  };

  static double norm_of(const float* vector, int64_t dim) {
    constexpr int64_t kSums = 8;  // more than one, so that they need not wait for each other
    double sums[kSums] = {};
    int64_t d = 0;
    for (; d + kSums <= dim; d += kSums) {
      for (int64_t i = 0; i < kSums; ++i) {
        sums[i] += static_cast<double>(vector[d + i]) * vector[d + i];
      }
    }
    for (; d < dim; ++d) sums[0] += static_cast<double>(vector[d]) * vector[d];
    double sum = 0;
    for (const double each : sums) sum += each;
    return std::sqrt(sum);
  }

  static double typical_norm(const DenseTiles& tiles) {
    double sum = 0;
    for (int64_t i = 0; i < kSample; ++i) {
      const double norm = norm_of(tiles.row(i), tiles.dim());
      sum += std::isfinite(norm) ? norm : 0;
    }
    return std::clamp(sum / kSample, kSmallest, kLargest);
  }

  std::vector<Bound> bounds_;  // one for each user, or none: then every row may reach
};

}  // namespace peel
