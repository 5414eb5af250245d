// The executor of systems without threads: every range runs on the calling one.
#include <stdexcept>
#include <string>

#include "core/executor.h"

namespace peel {

int num_threads() { return 1; }

void set_num_threads(int count) {
  if (count != 1) {
    throw std::invalid_argument("num_threads must be 1 on a system without threads, got " +
                                std::to_string(count));
  }
}

void parallel_for(int64_t count, int64_t, RangeFunction function, void* context) {
  if (count > 0) function(context, 0, count);
}

}  // namespace peel
