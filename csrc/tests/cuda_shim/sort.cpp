#include <algorithm>
#include <numeric>
#include <vector>

#include "kernels/cuda/primitives.h"

namespace peel::cuda {

template <typename Key, typename Value>
int64_t sort_pairs_workspace(const SortPairs<Key, Value>&) {
  return 0;
}

template <typename Key, typename Value>
void sort_pairs(const SortPairs<Key, Value>& pairs, void*, int64_t, void*) {
  const Key mask = static_cast<Key>(~uint64_t{0} >> (64 - pairs.key_bits));
  std::vector<int64_t> order(static_cast<size_t>(pairs.size));
  for (int64_t segment = 0; segment < pairs.segments; ++segment) {
    std::iota(order.begin(), order.end(), segment * pairs.size);
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
      return (pairs.keys_in[a] & mask) < (pairs.keys_in[b] & mask);
    });
    int64_t at = segment * pairs.size;
    for (const int64_t from : order) {
      pairs.keys_out[at] = pairs.keys_in[from];
      pairs.values_out[at++] = pairs.values_in[from];
    }
  }
}

int64_t exclusive_scan_workspace(int64_t) { return 0; }

void exclusive_scan(const int64_t* values, int64_t* out, int64_t count, void*, int64_t, void*) {
  int64_t sum = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t value = values[i];
    out[i] = sum;
    sum += value;
  }
}

#define PEEL_SORT_PAIRS(Key, Value)                                    \
  template int64_t sort_pairs_workspace(const SortPairs<Key, Value>&); \
  template void sort_pairs(const SortPairs<Key, Value>&, void*, int64_t, void*)
PEEL_SORT_PAIRS(uint32_t, uint32_t);
PEEL_SORT_PAIRS(uint64_t, uint32_t);
PEEL_SORT_PAIRS(uint64_t, uint64_t);
#undef PEEL_SORT_PAIRS

}  // namespace peel::cuda
