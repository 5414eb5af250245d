// Lookup of rows in planes, those that hold as many bits together.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "kernels/cpu/stored_rows.h"
#include "kernels/grouped_lookup.h"
#include "simd/primitives.h"

namespace peel {

// For one thread. The levels are brought into registers once for many rows, and rows of the next
// chunk of pairs are on their way while those of one are decoded.
template <typename Index>
class PlanesLookup {
 public:
  PlanesLookup(const simd::Primitives& isa, const StoreTable& table,
               const LookupPairs<Index>& pairs, float* out)
      : isa_(isa),
        table_(table),
        pairs_(pairs),
        out_(out),
        past_layers_(uint64_t{1} << table.geometry.num_layers) {
    for (int32_t layers = 0; layers <= table.geometry.num_layers; ++layers) {
      bits_of_layers_[layers] = table.geometry.bits_of((uint64_t{1} << layers) - 1);
    }
  }

  // Decodes the rows of the pairs [begin, end); false when find_stored_row failed.
  bool run(int64_t begin, int64_t end) {
    Chunk now, next;
    if (!find(begin, end, rows_, now)) return false;
    for (int64_t first = begin; first < end; first += kChunk) {
      next = {};
      if (first + kChunk < end && !find(first + kChunk, end, rows_ + now.count, next)) return false;
      decode(now, now.count + next.count);
      std::copy_n(rows_ + now.count, next.count, rows_);
      now = next;
    }
    return true;
  }

 private:
  static constexpr int64_t kChunk = 256;
  static constexpr int64_t kBatch = 32;  // rows decoded in one call
  static constexpr int64_t kAhead = 32;  // from a row that is decoded to the one asked for

  struct Chunk {
    int64_t count = 0;                   // of rows with bits
    int64_t of_bits[kMaxBits + 1] = {};  // those with so many, one after another
  };

  // Puts the rows of the next kChunk pairs in the order of their bits; those without are zero.
  // Meanwhile asks for the item groups of the chunk after: all at once they would wait for one
  // another.
  bool find(int64_t first, int64_t end, simd::PlanesRow* rows, Chunk& chunk) {
    const int64_t count = std::min(kChunk, end - first);
    float* out = out_ + first * table_.geometry.dim;
    int bits[kChunk] = {};
    int differing = 0;
    for (int64_t i = 0; i < count; ++i) {
      if (const int64_t m = first + i + kChunk; m < end) {
        prefetch(item_group_of(table_, index_at(m), pairs_.group_at(m)), sizeof(int32_t));
      }
      StoredRow row;
      if (!find_stored_row(table_, index_at(first + i), pairs_.group_at(first + i), row)) {
        return false;
      }
      rows[i] = {row.pieces, row.scales, out + i * table_.geometry.dim};
      bits[i] = bits_of_layers_[__builtin_ctzll(~row.held | past_layers_)];
      differing |= bits[i] ^ bits[0];
    }
    if (differing == 0 && bits[0] > 0) {
      chunk.count = chunk.of_bits[bits[0]] = count;
    } else {
      sort(rows, bits, count, chunk);
    }
    return true;
  }

  void sort(simd::PlanesRow* rows, const int* bits, int64_t count, Chunk& chunk) {
    for (int64_t i = 0; i < count; ++i) ++chunk.of_bits[bits[i]];
    chunk.count = count - chunk.of_bits[0];
    simd::PlanesRow found[kChunk];
    std::copy_n(rows, count, found);
    simd::PlanesRow* at[kMaxBits + 1] = {};
    for (int b = 1; b <= kMaxBits; ++b) {
      at[b] = rows;
      rows += chunk.of_bits[b];
    }
    for (int64_t i = 0; i < count; ++i) {
      if (bits[i] == 0) {
        std::memset(found[i].out, 0, static_cast<size_t>(table_.geometry.dim) * sizeof(float));
      } else {
        *at[bits[i]]++ = found[i];
      }
    }
  }

  int64_t index_at(int64_t m) const { return static_cast<int64_t>(pairs_.indices[m]); }

  // `there`: rows of this chunk and the next.
  void decode(const Chunk& chunk, int64_t there) {
    int64_t at = 0;
    for (int bits = 1; bits <= kMaxBits; ++bits) {
      for (const int64_t end = at + chunk.of_bits[bits]; at < end;) {
        const int64_t count = std::min(kBatch, end - at);
        const bool ahead = at + kAhead + count <= there;
        isa_.decode_planes(rows_ + at, ahead ? rows_ + at + kAhead : nullptr, count, bits,
                           levels_of(table_.levels, bits), table_.geometry.dim);
        at += count;
      }
    }
  }

  const simd::Primitives& isa_;
  const StoreTable& table_;
  const LookupPairs<Index>& pairs_;
  float* out_;
  uint64_t past_layers_;              // a layer there is not
  int bits_of_layers_[kMaxBits + 1];  // of codes, by the layers held
  simd::PlanesRow rows_[2 * kChunk];
};

}  // namespace peel
