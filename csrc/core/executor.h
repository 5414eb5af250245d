// The thread pool every kernel runs on: a few condition-variable workers, no OpenMP.
#pragma once

#include <cstdint>
#include <type_traits>

namespace peel {

// Called with a half-open range of work items, never an empty one.
using RangeFunction = void (*)(void* context, int64_t begin, int64_t end);

// Number of threads a call may use, the caller's included; at least 1. Until set_num_threads it is
// the environment variable PEEL_NUM_THREADS, or else the number of processors this process may run
// on. Throws std::invalid_argument if that variable is no integer between 1 and 1024.
int num_threads();
// May be called at any time, from any thread; calls that run already are not affected. Throws
// std::invalid_argument unless 1 <= count <= 1024.
void set_num_threads(int count);

// Splits [0, count) into at most num_threads() contiguous ranges of at least `grain` items (one
// range if there are fewer) and returns when all have run, on the calling thread and on workers.
// Where the cuts lie depends on count, grain and num_threads() alone. Runs all of it as one range
// on the calling thread when called from inside another parallel_for, or when another thread's call
// holds the pool. If ranges throw, the exception of the lowest is rethrown here, after all have
// run. Safe after fork(): a child starts its own workers at its first call.
void parallel_for(int64_t count, int64_t grain, RangeFunction function, void* context);

template <typename F>
void parallel_for(int64_t count, int64_t grain, F&& function) {
  using Plain = std::remove_reference_t<F>;
  parallel_for(
      count, grain,
      [](void* context, int64_t begin, int64_t end) {
        (*static_cast<Plain*>(context))(begin, end);
      },
      const_cast<void*>(static_cast<const void*>(&function)));
}

}  // namespace peel
