// What a kernel source needs of CUDA: the one header that includes it, or the host shim in its
// place.
//
// Kernel sources hold no <<<>>> and no `extern __shared__`, so that a plain C++ compiler reads
// them.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>

#ifdef PEEL_CUDA_SHIM
#include "tests/cuda_shim/cuda_shim.h"
#else
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#endif

namespace peel::cuda {

constexpr int kWarpSize = 32;
constexpr unsigned kFullWarp = 0xffffffffu;
constexpr int64_t kDefaultSharedBytes = 48 * 1024;  // a block may use more only if asked to

#ifdef PEEL_CUDA_SHIM

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, int64_t shared_bytes, void*,
            Arguments&&... arguments) {
  cuda_shim::run_grid(grid, block, shared_bytes, [&] { kernel(arguments...); });
}

inline void fill_bytes(void* begin, int value, int64_t bytes, void*) {
  if (bytes > 0) std::memset(begin, value, static_cast<size_t>(bytes));
}

// Few, so that one of them has more than one share of the work.
inline int num_multiprocessors() { return 3; }

#else

inline void check(cudaError_t error) {
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(error));
  }
}

// Starts kernel(arguments...) on the stream, with shared_bytes of dynamic shared memory. An empty
// grid is legal and does nothing.
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, int64_t shared_bytes,
            void* stream, Arguments&&... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  if (shared_bytes > kDefaultSharedBytes) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shared_bytes)));
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = static_cast<cudaStream_t>(stream);
  check(cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...));
}

// Sets each of `bytes` bytes to `value`.
inline void fill_bytes(void* begin, int value, int64_t bytes, void* stream) {
  if (bytes > 0) {
    check(cudaMemsetAsync(begin, value, static_cast<size_t>(bytes),
                          static_cast<cudaStream_t>(stream)));
  }
}

inline int num_multiprocessors() {
  int device = 0;
  int count = 0;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  return count;
}

#endif

// Which word of Launch::offenders is for what.
enum Offender { kIndices = 0, kGroups = 1, kRefinementSlot = 2, kItemGroup = 3, kNan = 4 };
constexpr int kNumOffenders = 5;

// Blocks of `size` threads or items that hold `count` of them.
inline unsigned blocks_for(int64_t count, int64_t size) {
  return static_cast<unsigned>((count + size - 1) / size);
}

// ---- on the device: a plain C++ source, which launches nothing, does without ----

#if defined(PEEL_CUDA_SHIM) || defined(__CUDACC__)

// The dynamic shared memory of the block, on 16 bytes.
__device__ inline void* dynamic_shared() {
#ifdef PEEL_CUDA_SHIM
  return cuda_shim::dynamic_shared();
#else
  extern __shared__ uint4 peel_dynamic_shared[];
  return peel_dynamic_shared;
#endif
}

// Four bytes, one for each hexadecimal digit of the selector's lower half: the digit's low three
// bits choose one of the eight of `low` and `high`, the fourth has its sign bit eight times
// instead.
__device__ inline unsigned select_bytes(unsigned low, unsigned high, unsigned selector) {
#ifdef PEEL_CUDA_SHIM
  return cuda_shim::select_bytes(low, high, selector);
#else
  unsigned bytes;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(bytes) : "r"(low), "r"(high), "r"(selector));
  return bytes;
#endif
}

// Notes that `value` at `position` is wrong: the lowest position of all that are noted stays.
// Positions from 2^32 - 1 on are noted as that one, values are clipped to int32.
__device__ inline void report(uint64_t* offenders, Offender what, int64_t position, int64_t value) {
  const uint64_t at = position < 0xffffffff ? static_cast<uint64_t>(position) : 0xffffffffu;
  const int64_t clipped = value < INT32_MIN ? INT32_MIN : value > INT32_MAX ? INT32_MAX : value;
  const uint64_t word = at << 32 | static_cast<uint32_t>(static_cast<int32_t>(clipped));
  atomicMin(reinterpret_cast<unsigned long long*>(offenders + what),
            static_cast<unsigned long long>(word));
}

#endif

}  // namespace peel::cuda
