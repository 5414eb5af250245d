// Upper bounds of scores in the planes layout: most tiles hold no row that can still enter a user's
// n best, and reading the first bits of their codes is enough to know it.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cpu/tiles.h"

namespace peel {

// For each of a few users and each number of bits a code can have, what a coordinate adds to the
// score at most, given the first bits of its code, as 8-bit steps above a base. Empty, and then
// every tile may reach, where bounding would cost more than scoring. Centroids times scales must be
// zero or normal floats, as the quantiser's are.
class ScoreBounds {
 public:
  ScoreBounds(const PackedTiles& tiles, const float* users, int64_t num_users, int64_t user_stride);

  // Whether any row of the reader's tile may score at or above the threshold of its user.
  bool may_reach(const PackedTiles::Reader& reader, const std::vector<float>& thresholds) const;

 private:
  struct Bound {
    std::vector<uint8_t> steps;  // [8 * plane_bytes, 16]
    float step = 0;
    float base = 0;
  };
  static Bound make_bound(const PackedTable& table, const float* user, int bits);

  size_t num_users_ = 0;
  std::vector<Bound> bounds_[kMaxBits + 1];  // by bits: one for each user, or none
};

}  // namespace peel
