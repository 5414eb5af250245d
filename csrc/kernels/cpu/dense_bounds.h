// Upper bounds of the scores of dense rows for one user: summed in any order they take a third of
// the time of the scores themselves, and most rows cannot enter the user's n best.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/cpu/dense_tiles.h"

namespace peel {

// The score of a row x is at most (its products summed in any order) + c |u| |x|, where c covers
// the roundings of both. With any t > 0, |x| <= (|x|^2 / t + t) / 2, so the squares can be added up
// with the products; t is the norm of a typical row.
class DenseBounds {
 public:
  DenseBounds(const DenseTiles& tiles, const float* users, int64_t num_users, int64_t) {
    // For more users at a time, scoring is cheaper.
    if (num_users != 1 || tiles.count() < kTiles) return;
    const double norm = norm_of(users, tiles.dim());
    // Beyond, roundings may be no longer relative, or sums overflow.
    if (!(norm > kSmallest && norm < kLargest)) return;
    const double room = (4 * static_cast<double>(tiles.dim()) + 64) * std::ldexp(1.0, -24) * norm;
    const double typical = typical_norm(tiles);
    user_ = users;
    slack_ = static_cast<float>(room / (2 * typical));
    least_ = static_cast<float>(room * typical / 2 + 1e-37);
  }

  // Whether there are any; else every row may reach.
  bool any() const { return user_ != nullptr; }

  // Those of the reader's tile, [kTileRows]: infinite where a row may have any score.
  void write(const DenseTiles::Reader& reader, float* bounds) const {
    reader.bound(user_, slack_, least_, bounds);
  }

  // As ScoreBounds has it.
  uint32_t may_reach(const DenseTiles::Reader& reader, const std::vector<float>& thresholds,
                     int) const {
    if (!any()) return ~0u;
    float bounds[simd::kTileRows];
    write(reader, bounds);
    return reader.reaching(bounds, thresholds[0]);
  }

 private:
  static constexpr int64_t kTiles = 4;  // with fewer, every row is among the best for a while
  static constexpr int64_t kSample = 16;
  static constexpr double kSmallest = 1e-12, kLargest = 1e12;

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

  const float* user_ = nullptr;
  float slack_ = 0;
  float least_ = 0;
};

}  // namespace peel
