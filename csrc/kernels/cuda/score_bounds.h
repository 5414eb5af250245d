// Upper bounds of one user's scores, for rows in planes of few bits: most rows cannot enter the n
// best, and whole numbers of 8 bits, four products an instruction, tell so sooner than the score.
//
// With c a level and u a coordinate of the user, c = least + step * T + e and u = unit * v + f,
// where T is a whole number of [0, 127] and v one of [-127, 127], both nearest. With m = 63.5
//   sum u c = least sum u + step (unit sum v T + m (sum u - unit sum v) + sum f (T - m)) + sum u e
// of which the third and the last sum are no more than sum |f| m and max |e| sum |u|.
#pragma once

#include "kernels/cuda/device.h"

namespace peel::cuda {

constexpr int kBoundBits = 4;
constexpr int kBoundCodes = 1 << kBoundBits;

// By the number of bits. Times a row's scale, base + step * (sum of v T) is its score but for the
// slack.
struct ScoreBound {
  alignas(16) uint8_t steps[kBoundBits + 1][kBoundCodes];  // T of a code
  float base[kBoundBits + 1];
  float step[kBoundBits + 1];
  float slack[kBoundBits + 1];
};

// The planes of an item group, each where its first tile has it; fewer than four are the last ones.
struct BoundPlanes {
  int bits;
  uint4 tables;
  const uint8_t* planes[kBoundBits];
  unsigned layer_bits;  // byte i: planes of the layer that planes[i] is of
  const uint8_t* scales;
};

// Which coordinate of a byte comes i-th, in the order in which codes are taken apart.
__device__ inline int coordinate_of_byte(int i) { return (i & 4) / 2 + (i & 2) / 2 + (i & 1) * 4; }

// Starts making the bound of one user. words [(dim + 7) / 8]: v of the coordinates, 8 for a byte of
// planes.
void make_bound(const float* user, int dim, const float* levels, ScoreBound* bound, uint2* words,
                void* stream);

// Lane i of a warp bounds row 4 (i % 8) + i / 8 of a slot.
__device__ inline int bounded_row(int lane) { return lane % 8 * 4 + lane / 8; }

// The 4-bit fields of four planes, most significant first, for four rows: byte r of fields[k] has
// the code of coordinate k of row r in its low half, that of coordinate k + 4 in its high half.
__device__ inline void interleave(const unsigned* p, unsigned* fields) {
  const unsigned even_high = (p[1] & 0x55555555u) | (p[0] & 0x55555555u) << 1;
  const unsigned odd_high = (p[1] >> 1 & 0x55555555u) | (p[0] & 0xaaaaaaaau);
  const unsigned even_low = (p[3] & 0x55555555u) | (p[2] & 0x55555555u) << 1;
  const unsigned odd_low = (p[3] >> 1 & 0x55555555u) | (p[2] & 0xaaaaaaaau);
  fields[0] = (even_low & 0x33333333u) | (even_high & 0x33333333u) << 2;
  fields[1] = (odd_low & 0x33333333u) | (odd_high & 0x33333333u) << 2;
  fields[2] = (even_low >> 2 & 0x33333333u) | (even_high & 0xccccccccu);
  fields[3] = (odd_low >> 2 & 0x33333333u) | (odd_high & 0xccccccccu);
}

// T of the codes of two rows in the low half of a field: each row's coordinates k and k + 4.
// Entries have no sign bit: a code selects zeros from the half of the table that it is not in.
__device__ inline unsigned steps_of(const uint4& tables, unsigned field) {
  return select_bytes(tables.x, tables.y, field) |
         select_bytes(tables.z, tables.w, field ^ 0x8888u);
}

// Whether the score of the lane's row may reach a floor; called by a whole warp. `first` is the
// tile's first row.
__device__ inline bool may_reach(const BoundPlanes& from, const ScoreBound& bound,
                                 const uint2* words, int plane_bytes, int64_t first, float floor) {
  const int lane = static_cast<int>(threadIdx.x % kWarpSize);
  const int part = lane / 8;  // bytes part, part + 4, ... of the planes, of rows 4 (lane % 8) on
  const unsigned* planes[kBoundBits];
  for (int i = 0; i < kBoundBits; ++i) {
    const int row_bytes = static_cast<int>(from.layer_bits >> (8 * i) & 0xffu) * plane_bytes;
    planes[i] = reinterpret_cast<const unsigned*>(from.planes[i] + first * row_bytes);
  }
  int sums[4] = {0, 0, 0, 0};
#pragma unroll 2
  for (int j = part; j < plane_bytes; j += 4) {
    unsigned p[kBoundBits];
    for (int i = 0; i < kBoundBits; ++i) {
      p[i] = i < kBoundBits - from.bits ? 0 : __ldg(planes[i] + 8 * j + lane % 8);
    }
    const uint2 user = __ldg(words + j);
    unsigned fields[4];
    interleave(p, fields);
    for (int two = 0; two < 2; ++two) {  // rows 0 and 1, then 2 and 3
      const unsigned s0 = steps_of(from.tables, fields[0] >> (16 * two));
      const unsigned s1 = steps_of(from.tables, fields[1] >> (16 * two));
      const unsigned s2 = steps_of(from.tables, fields[2] >> (16 * two));
      const unsigned s3 = steps_of(from.tables, fields[3] >> (16 * two));
      for (int r = 0; r < 2; ++r) {
        const unsigned pairs = r == 0 ? 0x5410u : 0x7632u;
        int& sum = sums[2 * two + r];
        sum = __dp4a(static_cast<int>(select_bytes(s0, s1, pairs)), static_cast<int>(user.x), sum);
        sum = __dp4a(static_cast<int>(select_bytes(s2, s3, pairs)), static_cast<int>(user.y), sum);
      }
    }
  }
  // Each lane passes on what is not its row's and adds up what is.
  const bool last_two = part & 2;
  const bool second = part & 1;
  const int even = __shfl_xor_sync(kFullWarp, last_two ? sums[0] : sums[2], 16);
  const int odd = __shfl_xor_sync(kFullWarp, last_two ? sums[1] : sums[3], 16);
  const int own_even = (last_two ? sums[2] : sums[0]) + even;
  const int own_odd = (last_two ? sums[3] : sums[1]) + odd;
  const int own =
      (second ? own_odd : own_even) + __shfl_xor_sync(kFullWarp, second ? own_even : own_odd, 8);
  const auto* halves = reinterpret_cast<const uint16_t*>(from.scales) + first;
  const float scale = __half2float(__ushort_as_half(halves[bounded_row(lane)]));
  const float about = bound.base[from.bits] + bound.step[from.bits] * static_cast<float>(own);
  return !(scale * about + fabsf(scale) * bound.slack[from.bits] < floor);
}

}  // namespace peel::cuda
