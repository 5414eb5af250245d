// The thread pool every kernel runs on: a few condition-variable workers, no OpenMP.
#pragma once

#include <cstdint>
#include <type_traits>

namespace peel {

// Called with a half-open range of work items, never an empty one.
using RangeFunction = void (*)(void* context, int64_t begin, int64_t end);

// Number of threads a call may use, the caller's included; at least 1. The default is the number of
// processors this process may run on.
int num_threads();
// Throws std::invalid_argument unless 1 <= count <= 1024.
void set_num_threads(int count);

// Splits [0, count) into at most num_threads() contiguous ranges of at least `grain` items and runs
// them, the first on the calling thread. Returns when all have run. Runs serially when there is
// only one range, when called from inside another parallel_for, or when another thread's call holds
// the pool. The first exception of a range is rethrown here. Safe after fork(): a child starts its
// own workers at its first call.
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
