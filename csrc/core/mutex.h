// A lock, and on systems without threads one that does nothing.
#pragma once

#if defined(__wasm__)

namespace peel {

class Mutex {
 public:
  void lock() {}
  void unlock() {}
};

}  // namespace peel

#else

#include <mutex>

namespace peel {

using Mutex = std::mutex;

}  // namespace peel

#endif
