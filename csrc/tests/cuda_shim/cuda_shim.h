// CUDA as far as the kernels use it, on the host: each thread of a block is a fiber.
//
// Blocks run one after another, and the fibers of a block take turns at barriers and warp
// collectives, in an order that changes from turn to turn. A barrier counts arrivals: one that some
// thread never reaches ends the program, as does a warp collective whose lanes disagree. Memory is
// the host's, so that the sanitizers see every access; contents of dynamic shared memory start as
// garbage.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#include "core/half.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static  // blocks run one after another

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

using std::max;
using std::min;

namespace peel::cuda_shim {

enum class Collective { kSync, kShuffle, kBallot, kMatch, kAdd, kMin, kMax };

void run_grid(dim3 grid, dim3 block, int64_t shared_bytes, const std::function<void()>& thread);
void* dynamic_shared();
// Returns how many threads of the block came with `vote`.
int barrier(bool vote);
// Waits for the lanes of `mask`; kShuffle returns the value of lane `source`.
uint64_t collective(Collective what, unsigned mask, uint64_t value, int source = 0);
int lane();

template <typename T>
uint64_t to_bits(T value) {
  static_assert(sizeof(T) <= 8, "a lane passes 8 bytes at most");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  return bits;
}
template <typename To, typename From>
To bits_as(From from) {
  static_assert(sizeof(To) <= sizeof(From), "no bits are made up");
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}
// As PTX has prmt.b32.
inline unsigned select_bytes(unsigned low, unsigned high, unsigned selector) {
  const uint64_t pool = uint64_t{high} << 32 | low;
  unsigned bytes = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned digit = selector >> (4 * i) & 15u;
    unsigned byte = static_cast<unsigned>(pool >> (8 * (digit & 7u))) & 0xffu;
    if (digit & 8u) byte = byte & 0x80u ? 0xffu : 0;
    bytes |= byte << (8 * i);
  }
  return bytes;
}
// `source` where it is a lane of the caller's group of `width`, else the caller.
template <typename T>
T shuffle(unsigned mask, T value, int source, int begin, int width) {
  const bool inside = source >= begin && source < begin + width;
  return bits_as<T>(
      collective(Collective::kShuffle, mask, to_bits(value), inside ? source : lane()));
}

}  // namespace peel::cuda_shim

inline void __syncthreads() { peel::cuda_shim::barrier(false); }
inline int __syncthreads_or(int vote) { return peel::cuda_shim::barrier(vote != 0) > 0; }
inline int __syncthreads_count(int vote) { return peel::cuda_shim::barrier(vote != 0); }
inline void __threadfence() {}
inline void __syncwarp(unsigned mask = 0xffffffffu) {
  peel::cuda_shim::collective(peel::cuda_shim::Collective::kSync, mask, 0);
}

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  const int begin = peel::cuda_shim::lane() & ~(width - 1);
  return peel::cuda_shim::shuffle(mask, value, begin + (source & (width - 1)), begin, width);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const int lane = peel::cuda_shim::lane();
  return peel::cuda_shim::shuffle(mask, value, lane + static_cast<int>(delta), lane & ~(width - 1),
                                  width);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const int lane = peel::cuda_shim::lane();
  return peel::cuda_shim::shuffle(mask, value, lane - static_cast<int>(delta), lane & ~(width - 1),
                                  width);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int with, int width = 32) {
  const int lane = peel::cuda_shim::lane();
  return peel::cuda_shim::shuffle(mask, value, lane ^ with, lane & ~(width - 1), width);
}
inline unsigned __ballot_sync(unsigned mask, int vote) {
  return static_cast<unsigned>(
      peel::cuda_shim::collective(peel::cuda_shim::Collective::kBallot, mask, vote != 0));
}
inline int __any_sync(unsigned mask, int vote) { return __ballot_sync(mask, vote) != 0; }
inline int __all_sync(unsigned mask, int vote) { return __ballot_sync(mask, vote) == mask; }
template <typename T>
unsigned __match_any_sync(unsigned mask, T value) {
  return static_cast<unsigned>(peel::cuda_shim::collective(peel::cuda_shim::Collective::kMatch,
                                                           mask, peel::cuda_shim::to_bits(value)));
}
inline unsigned __reduce_add_sync(unsigned mask, unsigned value) {
  return static_cast<unsigned>(
      peel::cuda_shim::collective(peel::cuda_shim::Collective::kAdd, mask, value));
}
inline unsigned __reduce_min_sync(unsigned mask, unsigned value) {
  return static_cast<unsigned>(
      peel::cuda_shim::collective(peel::cuda_shim::Collective::kMin, mask, value));
}
inline unsigned __reduce_max_sync(unsigned mask, unsigned value) {
  return static_cast<unsigned>(
      peel::cuda_shim::collective(peel::cuda_shim::Collective::kMax, mask, value));
}

// Atomics of the types that CUDA has, no others. Fibers change only where they wait.
#define PEEL_SHIM_ATOMICS(T)                       \
  inline T atomicAdd(T* at, T value) {             \
    const T old = *at;                             \
    *at = static_cast<T>(old + value);             \
    return old;                                    \
  }                                                \
  inline T atomicMin(T* at, T value) {             \
    const T old = *at;                             \
    *at = std::min(old, value);                    \
    return old;                                    \
  }                                                \
  inline T atomicMax(T* at, T value) {             \
    const T old = *at;                             \
    *at = std::max(old, value);                    \
    return old;                                    \
  }                                                \
  inline T atomicOr(T* at, T value) {              \
    const T old = *at;                             \
    *at = old | value;                             \
    return old;                                    \
  }                                                \
  inline T atomicExch(T* at, T value) {            \
    const T old = *at;                             \
    *at = value;                                   \
    return old;                                    \
  }                                                \
  inline T atomicCAS(T* at, T expected, T value) { \
    const T old = *at;                             \
    if (old == expected) *at = value;              \
    return old;                                    \
  }
PEEL_SHIM_ATOMICS(int)
PEEL_SHIM_ATOMICS(unsigned)
PEEL_SHIM_ATOMICS(unsigned long long)
#undef PEEL_SHIM_ATOMICS

// One rounding each: the host compiles with -ffp-contract=off.
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline double __ddiv_rn(double a, double b) { return a / b; }

inline unsigned __float_as_uint(float a) { return peel::cuda_shim::bits_as<unsigned>(a); }
inline int __float_as_int(float a) { return peel::cuda_shim::bits_as<int>(a); }
inline float __uint_as_float(unsigned a) { return peel::cuda_shim::bits_as<float>(a); }
inline float __int_as_float(int a) { return peel::cuda_shim::bits_as<float>(a); }
inline long long __double_as_longlong(double a) { return peel::cuda_shim::bits_as<long long>(a); }
inline double __longlong_as_double(long long a) { return peel::cuda_shim::bits_as<double>(a); }

// sum plus the products of the four signed bytes of a and b.
inline int __dp4a(int a, int b, int sum) {
  for (int i = 0; i < 32; i += 8) sum += static_cast<int8_t>(a >> i) * static_cast<int8_t>(b >> i);
  return sum;
}

inline int __popc(unsigned a) { return __builtin_popcount(a); }
inline int __popcll(unsigned long long a) { return __builtin_popcountll(a); }
inline int __ffs(unsigned a) { return __builtin_ffs(static_cast<int>(a)); }
inline int __ffsll(unsigned long long a) { return __builtin_ffsll(static_cast<long long>(a)); }
inline int __clz(unsigned a) { return a ? __builtin_clz(a) : 32; }
inline int __clzll(unsigned long long a) { return a ? __builtin_clzll(a) : 64; }
template <typename T>
T __ldg(const T* at) {
  return *at;
}

struct __half {
  uint16_t bits;
};
inline __half __ushort_as_half(uint16_t bits) { return {bits}; }
inline float __half2float(__half half) { return peel::half_to_float(half.bits); }
