#include <thrust/iterator/counting_iterator.h>
#include <thrust/iterator/transform_iterator.h>

#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_scan.cuh>
#include <cub/device/device_segmented_radix_sort.cuh>

#include "kernels/cuda/device.h"
#include "kernels/cuda/primitives.h"

namespace peel::cuda {
namespace {

// Pairs a segment from which all blocks of the device together sort it, not one block alone.
constexpr int64_t kLargeSegment = 1 << 16;

struct SegmentBegin {
  int64_t size;
  __host__ __device__ int64_t operator()(int64_t segment) const { return segment * size; }
};

template <typename Key, typename Value>
size_t sort(const SortPairs<Key, Value>& pairs, void* workspace, size_t bytes,
            cudaStream_t stream) {
  const int64_t total = pairs.segments * pairs.size;
  if (pairs.segments > 1 && pairs.size < kLargeSegment) {
    const auto begins = thrust::make_transform_iterator(thrust::make_counting_iterator(int64_t{0}),
                                                        SegmentBegin{pairs.size});
    check(cub::DeviceSegmentedRadixSort::SortPairs(
        workspace, bytes, pairs.keys_in, pairs.keys_out, pairs.values_in, pairs.values_out, total,
        pairs.segments, begins, begins + 1, 0, pairs.key_bits, stream));
    return bytes;
  }
  for (int64_t segment = 0; segment < pairs.segments; ++segment) {
    const int64_t at = segment * pairs.size;
    check(cub::DeviceRadixSort::SortPairs(workspace, bytes, pairs.keys_in + at, pairs.keys_out + at,
                                          pairs.values_in + at, pairs.values_out + at, pairs.size,
                                          0, pairs.key_bits, stream));
    if (workspace == nullptr) break;
  }
  return bytes;
}

}  // namespace

template <typename Key, typename Value>
int64_t sort_pairs_workspace(const SortPairs<Key, Value>& pairs) {
  if (pairs.segments * pairs.size == 0) return 0;
  return static_cast<int64_t>(sort(pairs, nullptr, 0, nullptr));
}

template <typename Key, typename Value>
void sort_pairs(const SortPairs<Key, Value>& pairs, void* workspace, int64_t workspace_bytes,
                void* stream) {
  if (pairs.segments * pairs.size == 0) return;
  sort(pairs, workspace, static_cast<size_t>(workspace_bytes), static_cast<cudaStream_t>(stream));
}

int64_t exclusive_scan_workspace(int64_t count) {
  if (count == 0) return 0;
  size_t bytes = 0;
  check(cub::DeviceScan::ExclusiveSum(nullptr, bytes, static_cast<const int64_t*>(nullptr),
                                      static_cast<int64_t*>(nullptr), count));
  return static_cast<int64_t>(bytes);
}

void exclusive_scan(const int64_t* values, int64_t* out, int64_t count, void* workspace,
                    int64_t workspace_bytes, void* stream) {
  if (count == 0) return;
  size_t bytes = static_cast<size_t>(workspace_bytes);
  check(cub::DeviceScan::ExclusiveSum(workspace, bytes, values, out, count,
                                      static_cast<cudaStream_t>(stream)));
}

#define PEEL_SORT_PAIRS(Key, Value)                                    \
  template int64_t sort_pairs_workspace(const SortPairs<Key, Value>&); \
  template void sort_pairs(const SortPairs<Key, Value>&, void*, int64_t, void*)
PEEL_SORT_PAIRS(uint32_t, uint32_t);
PEEL_SORT_PAIRS(uint64_t, uint32_t);
PEEL_SORT_PAIRS(uint64_t, uint64_t);
#undef PEEL_SORT_PAIRS

}  // namespace peel::cuda
