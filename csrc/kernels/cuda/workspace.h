// One piece of device memory cut into the arrays a kernel needs.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace peel::cuda {

// Cuts arrays off the front. Without memory it counts the bytes that the same cuts will need: a
// kernel states its arrays once, for its size and for its run.
class Workspace {
 public:
  Workspace() = default;
  Workspace(void* memory, int64_t limit) : memory_(static_cast<uint8_t*>(memory)), limit_(limit) {}

  template <typename T>
  T* take(int64_t count) {
    constexpr int64_t kAlignment = 256;
    const int64_t begin = bytes_;
    bytes_ += (count * static_cast<int64_t>(sizeof(T)) + kAlignment - 1) / kAlignment * kAlignment;
    if (bytes_ > limit_) {
      throw std::invalid_argument("workspace must have at least " + std::to_string(bytes_) +
                                  " bytes, got " + std::to_string(limit_));
    }
    return memory_ ? reinterpret_cast<T*>(memory_ + begin) : nullptr;
  }
  int64_t bytes() const { return bytes_; }

 private:
  uint8_t* memory_ = nullptr;
  int64_t limit_ = INT64_MAX;
  int64_t bytes_ = 0;
};

}  // namespace peel::cuda
