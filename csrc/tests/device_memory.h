// Arrays as a device sees them, for tests of kernels that run on a GPU and under the host shim.
#pragma once

#include <vector>

#include "kernels/cuda/device.h"
#include "kernels/cuda/kernels.h"

namespace peel {

// A copy of `values` on the device. Under the shim it lies in memory of its own, so that the
// address sanitizer sees its bounds.
template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(const std::vector<T>& values) : count_(values.size()) {
#ifdef PEEL_CUDA_SHIM
    data_ = new T[count_];
    std::copy(values.begin(), values.end(), data_);
#else
    cuda::check(cudaMalloc(&data_, std::max<size_t>(bytes(), 1)));
    cuda::check(cudaMemcpy(data_, values.data(), bytes(), cudaMemcpyHostToDevice));
#endif
  }
  explicit DeviceArray(int64_t count, T value = T())
      : DeviceArray(std::vector<T>(static_cast<size_t>(count), value)) {}
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  ~DeviceArray() {
#ifdef PEEL_CUDA_SHIM
    delete[] data_;
#else
    cudaFree(data_);
#endif
  }
  T* data() { return data_; }
  // Waits for the device.
  std::vector<T> read() const {
    std::vector<T> values(count_);
#ifdef PEEL_CUDA_SHIM
    std::copy(data_, data_ + count_, values.begin());
#else
    cuda::check(cudaDeviceSynchronize());
    cuda::check(cudaMemcpy(values.data(), data_, bytes(), cudaMemcpyDeviceToHost));
#endif
    return values;
  }

 private:
  size_t bytes() const { return count_ * sizeof(T); }

  size_t count_;
  T* data_ = nullptr;
};

// Runs `kernel`, which takes a Launch, with a workspace of garbage, and returns the offenders.
template <typename Kernel>
std::vector<uint64_t> run_on_device(int64_t workspace_bytes, Kernel&& kernel) {
  DeviceArray<uint8_t> workspace(workspace_bytes, 0xcb);
  DeviceArray<uint64_t> offenders(cuda::kNumOffenders, UINT64_MAX);
  cuda::Launch launch;
  launch.workspace = workspace.data();
  launch.workspace_bytes = workspace_bytes;
  launch.offenders = offenders.data();
  kernel(launch);
  return offenders.read();
}

// What `report` notes.
inline uint64_t offender(int64_t position, int32_t value) {
  return static_cast<uint64_t>(position) << 32 | static_cast<uint32_t>(value);
}
inline const std::vector<uint64_t> kNoOffenders(cuda::kNumOffenders, UINT64_MAX);

}  // namespace peel
