#include "kernels/cuda/score_bounds.h"

namespace peel::cuda {
namespace {

__device__ float sum_over_warp(float value) {
  for (int with = kWarpSize / 2; with > 0; with /= 2) {
    value += __shfl_xor_sync(kFullWarp, value, with);
  }
  return value;
}
__device__ float max_over_warp(float value) {
  for (int with = kWarpSize / 2; with > 0; with /= 2) {
    value = fmaxf(value, __shfl_xor_sync(kFullWarp, value, with));
  }
  return value;
}

// The nearest whole number, where it is one of a signed byte; else 0, and what is made of it is
// found too large or not a number.
__device__ int nearest_step(float value) {
  return fabsf(value) <= 127.5f ? static_cast<int>(rintf(fminf(fmaxf(value, -127.0f), 127.0f))) : 0;
}

// By one warp.
__global__ void bound_user(const float* user, int dim, const float* levels, ScoreBound* bound,
                           uint2* words) {
  const int lane = static_cast<int>(threadIdx.x);
  float largest = 0;
  for (int d = lane; d < dim; d += kWarpSize) largest = fmaxf(largest, fabsf(user[d]));
  const float unit = max_over_warp(largest) / 127;
  float sum = 0, size = 0, error = 0, whole = 0;  // of u, |u|, |f|, v
  for (int j = lane; j < (dim + 7) / 8; j += kWarpSize) {
    unsigned bytes[2] = {0, 0};
    for (int i = 0; i < 8; ++i) {
      const int d = 8 * j + coordinate_of_byte(i);
      if (d >= dim) continue;
      const int v = unit > 0 ? nearest_step(user[d] / unit) : 0;
      bytes[i / 4] |= (static_cast<unsigned>(v) & 0xffu) << (8 * (i % 4));
      sum += user[d];
      size += fabsf(user[d]);
      error += fabsf(user[d] - unit * static_cast<float>(v));
      whole += static_cast<float>(v);
    }
    words[j] = {bytes[0], bytes[1]};
  }
  sum = sum_over_warp(sum);
  size = sum_over_warp(size);
  error = sum_over_warp(error);
  whole = sum_over_warp(whole);
  constexpr float kMiddle = 63.5f;
  for (int bits = 1; bits <= kBoundBits; ++bits) {
    const int code = lane % (1 << bits);
    const float level = levels[(1 << bits) - 2 + code];
    const float least = -max_over_warp(-level);
    const float step = (max_over_warp(level) - least) / 127;
    const int steps = step > 0 ? nearest_step((level - least) / step) : 0;
    const float off = max_over_warp(fabsf(level - (least + step * static_cast<float>(steps))));
    // Rounding, here and in a score: below 4 / 2^24 of the sum of sizes for each coordinate.
    const float rounding =
        2.4e-7f * static_cast<float>(dim + 16) * size * max_over_warp(fabsf(level));
    if (lane < kBoundCodes) {
      bound->steps[bits][lane] = lane < 1 << bits ? static_cast<uint8_t>(steps) : 0;
    }
    if (lane == 0) {
      bound->base[bits] = least * sum + step * kMiddle * (sum - unit * whole);
      bound->step[bits] = step * unit;
      bound->slack[bits] = step * kMiddle * error + off * size + rounding;
    }
  }
}

}  // namespace

void make_bound(const float* user, int dim, const float* levels, ScoreBound* bound, uint2* words,
                void* stream) {
  cuda::launch(bound_user, 1, kWarpSize, 0, stream, user, dim, levels, bound, words);
}

}  // namespace peel::cuda
