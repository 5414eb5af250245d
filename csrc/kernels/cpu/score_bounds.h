// Upper bounds of scores: most tiles hold no row that can still enter a user's n best, and less
// than the score is enough to know it. In planes it is the first bits of the codes, in columns of
// int8 values a product with the user's vector rounded to a few bits, too.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/packed_tiles.h"

namespace peel {

// For each of a few users; in planes and each number of bits a code can have, what a coordinate
// adds to the score at most, given the first bits of its code, as 8-bit steps above a base. Empty,
// and then every row may reach, where bounding would cost more than scoring. Centroids times
// scales must be zero or normal floats, as the quantiser's are.
class ScoreBounds {
 public:
  ScoreBounds(const PackedTiles& tiles, const float* users, int64_t num_users, int64_t user_stride);

  // The rows of the reader's tile that may score at or above the threshold of any user, as bits;
  // once they are more than `few`, not all of them.
  uint32_t may_reach(const PackedTiles::Reader& reader, const std::vector<float>& thresholds,
                     int few) const;

 private:
  struct Bound {
    std::vector<uint8_t> steps;  // [8 * plane_bytes, 16]
    float step = 0;
    float base = 0;
  };
  struct Int8Bound {
    std::vector<uint32_t> words;  // [dim], these three as simd::Int8User has them
    std::vector<int32_t> sums;
    std::vector<float> slacks;
    float step = 0;
  };
  static Bound make_bound(const PackedTable& table, const float* user, int bits);
  static Int8Bound make_int8_bound(const PackedTiles& tiles, const float* user);

  size_t num_users_ = 0;
  std::vector<Bound> bounds_[kMaxBits + 1];  // by bits: one for each user, or none
  std::vector<Int8Bound> int8_bounds_;       // likewise
};

}  // namespace peel
