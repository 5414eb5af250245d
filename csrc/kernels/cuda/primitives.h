// Device-wide steps that several kernels take. CUB does them on a device, std:: in the host shim.
#pragma once

#include <cstdint>

namespace peel::cuda {

// Stable sort of (key, value) pairs by the low `key_bits` bits of the keys, ascending, within each
// of `segments` runs of `size` pairs. Input is kept; in and out lie apart.
template <typename Key, typename Value>  // each uint32_t or uint64_t
struct SortPairs {
  const Key* keys_in = nullptr;
  Key* keys_out = nullptr;
  const Value* values_in = nullptr;
  Value* values_out = nullptr;
  int64_t segments = 1;
  int64_t size = 0;
  int key_bits = static_cast<int>(8 * sizeof(Key));
};

template <typename Key, typename Value>
int64_t sort_pairs_workspace(const SortPairs<Key, Value>& pairs);
template <typename Key, typename Value>
void sort_pairs(const SortPairs<Key, Value>& pairs, void* workspace, int64_t workspace_bytes,
                void* stream);

// out[i] = the sum of values[0 .. i); in and out may be the same.
int64_t exclusive_scan_workspace(int64_t count);
void exclusive_scan(const int64_t* values, int64_t* out, int64_t count, void* workspace,
                    int64_t workspace_bytes, void* stream);

// Bits that tell the numbers below `limit` apart: at least 1.
inline int bits_below(int64_t limit) {
  int bits = 1;
  while (bits < 63 && (int64_t{1} << bits) < limit) ++bits;
  return bits;
}

}  // namespace peel::cuda
