// Stable radix sorting of records (key << 32 | position), shared by the kernels that order blocks
// and rows. Every pass is split over the threads; the result does not depend on how.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "core/executor.h"

namespace peel {

constexpr int kRecordDigitBits = 11;

// One counting pass by digit `digit` of the key, ascending or descending: calls put(place, record)
// for every record, with the places of one digit in the order of the records.
template <bool kDescending, typename Put>
void scatter_records(const uint64_t* records, int64_t count, int digit, Put&& put) {
  constexpr int64_t kBuckets = int64_t{1} << kRecordDigitBits;
  constexpr int64_t kApart = 65536;  // records below which a second thread costs more than it saves
  const int shift = 32 + digit * kRecordDigitBits;
  const auto bucket = [shift](uint64_t record) {
    return (kDescending ? ~(record >> shift) : record >> shift) & (kBuckets - 1);
  };
  const int64_t parts = std::min<int64_t>(num_threads(), std::max<int64_t>(1, count / kApart));
  const auto begin_of = [&](int64_t part) { return count * part / parts; };
  std::vector<int64_t> places(static_cast<size_t>(parts * kBuckets));  // [parts, buckets]
  parallel_for(parts, 1, [&](int64_t first, int64_t last) {
    for (int64_t part = first; part < last; ++part) {
      int64_t* counts = places.data() + part * kBuckets;
      for (int64_t i = begin_of(part); i < begin_of(part + 1); ++i) ++counts[bucket(records[i])];
    }
  });
  int64_t at = 0;
  for (int64_t b = 0; b < kBuckets; ++b) {
    for (int64_t part = 0; part < parts; ++part) {
      int64_t& place = places[static_cast<size_t>(part * kBuckets + b)];
      at += place;
      place = at - place;
    }
  }
  parallel_for(parts, 1, [&](int64_t first, int64_t last) {
    for (int64_t part = first; part < last; ++part) {
      int64_t* next = places.data() + part * kBuckets;
      for (int64_t i = begin_of(part); i < begin_of(part + 1); ++i) {
        put(next[bucket(records[i])]++, records[i]);
      }
    }
  });
}

// Sorts by ascending key, equal keys as they come; no key exceeds `largest_key`.
inline void sort_records(std::vector<uint64_t>& records, uint32_t largest_key) {
  std::vector<uint64_t> other(records.size());
  int digit = 0;
  for (uint64_t rest = largest_key; rest; rest >>= kRecordDigitBits) {
    scatter_records<false>(
        records.data(), static_cast<int64_t>(records.size()), digit++,
        [&other](int64_t at, uint64_t record) { other[static_cast<size_t>(at)] = record; });
    std::swap(records, other);
  }
}

}  // namespace peel
