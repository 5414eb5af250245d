#include "kernels/grouped_lookup.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <vector>

#include "core/executor.h"
#include "core/out_of_range.h"
#include "kernels/cpu/planes_lookup.h"
#include "kernels/cpu/prefetch.h"
#include "kernels/cpu/row_decoder.h"
#include "kernels/cpu/row_runs.h"
#include "kernels/cpu/stored_rows.h"
#include "simd/primitives.h"

namespace peel {
namespace {

constexpr int64_t kGrain = 256;     // pairs below which a second thread costs more than it saves
constexpr int64_t kAhead = 32;      // pairs whose rows are asked for ahead of use
constexpr int64_t kRotated = 1024;  // pairs whose rows are decoded before they are rotated

template <typename Index>
LookupResult check(const LookupPairs<Index>& pairs, int64_t num_embeddings, int64_t num_groups) {
  const int64_t index = first_out_of_range(pairs.indices, pairs.count, num_embeddings);
  if (index >= 0) return {LookupStatus::kBadIndex, index};
  if (pairs.groups) {
    const int64_t group = first_out_of_range(pairs.groups, pairs.count, num_groups);
    if (group >= 0) return {LookupStatus::kBadGroup, group};
  } else if (pairs.group < 0 || pairs.group >= num_groups) {
    return {LookupStatus::kBadGroup, 0};
  }
  return {};
}

// Values of refinement_slot and item_group are the caller's data too.
template <typename Index>
LookupResult check_table(const StoreTable& table, const LookupPairs<Index>& pairs) {
  const bool blocks = table.geometry.layout != Layout::kDense;
  if (!table.refinement_slot && !blocks) return {};
  for (int64_t m = 0; m < pairs.count; ++m) {
    const int64_t index = static_cast<int64_t>(pairs.indices[m]);
    const int64_t group = pairs.group_at(m);
    if (table.refinement_slot &&
        table.refinement_slot[group * table.num_embeddings + index] >= table.num_refined) {
      return {LookupStatus::kBadSlot, m};
    }
    if (blocks && *item_group_of(table, index, group) >= table.num_item_groups) {
      return {LookupStatus::kBadItemGroup, m};
    }
  }
  return {};
}

template <typename Index>
LookupResult check(const StoreTable& table, const LookupPairs<Index>& pairs) {
  const LookupResult checked = check(pairs, table.num_embeddings, table.num_groups);
  return checked.status == LookupStatus::kOk ? check_table(table, pairs) : checked;
}

uint64_t held_layers(const StoreTable& table, int64_t index, int64_t group) {
  const int64_t c = *item_group_of(table, index, group);
  return c < 0 ? 0 : static_cast<uint64_t>(table.held[group * table.num_item_groups + c]);
}

PEEL_ALWAYS_INLINE void prefetch_dense_row(const StoreTable& table, int64_t index, int64_t group) {
  const int64_t slot = refined_row(table, index, group);
  const int64_t bytes = table.geometry.dim * static_cast<int64_t>(sizeof(float));
  prefetch(table.weight + index * table.weight_stride, bytes);
  if (slot >= 0) prefetch(table.refinement + slot * table.geometry.dim, bytes);
}

void dense_row(const StoreTable& table, int64_t index, int64_t group, float* out) {
  const float* row = table.weight + index * table.weight_stride;
  const int64_t slot = refined_row(table, index, group);
  if (slot < 0) {
    std::memcpy(out, row, static_cast<size_t>(table.geometry.dim) * sizeof(float));
    return;
  }
  const float* refinement = table.refinement + slot * table.geometry.dim;
  for (int64_t d = 0; d < table.geometry.dim; ++d) out[d] = row[d] + refinement[d];
}

void decode_stored_row(const simd::Primitives& isa, const StoreTable& table, const StoredRow& row,
                       float* out) {
  const Geometry& geometry = table.geometry;
  const uint8_t* piece = row.pieces;
  const uint8_t* scale = row.scales;
  const uint64_t held = row.held;
  if (geometry.layout == Layout::kPlanes) {  // all planes of a row lie one after another
    decode_planes_row(isa, geometry, table.levels, piece, geometry.bits_of(held), scale, out);
    return;
  }
  const uint64_t all = ~uint64_t{0} >> (kMaxLayers - geometry.num_layers);
  if (geometry.value_type != ValueType::kInt8 && (held & all) == all) {  // so do its columns
    if (geometry.value_type == ValueType::kFloat32) {
      std::memcpy(out, piece, static_cast<size_t>(geometry.dim) * sizeof(float));
    } else {
      isa.decode_float16(reinterpret_cast<const uint16_t*>(piece), out, geometry.dim);
    }
    return;
  }
  RowPieces pieces;
  pieces.held = held;
  for (int32_t layer = 0; layer < geometry.num_layers; ++layer) {
    pieces.pieces[layer] = piece;
    if (geometry.value_type == ValueType::kInt8) pieces.scales[layer] = scale + 2 * layer;
    piece += geometry.layer_width(layer) * geometry.value_bytes();
  }
  decode_row(isa, geometry, table.levels, pieces, out);
}

std::vector<float> transposed(const float* matrix, int64_t dim) {
  std::vector<float> result(static_cast<size_t>(matrix ? dim * dim : 0));
  for (int64_t j = 0; matrix && j < dim; ++j) {
    for (int64_t k = 0; k < dim; ++k)
      result[static_cast<size_t>(k * dim + j)] = matrix[j * dim + k];
  }
  return result;
}

// Writes the row of an id in a packed table, zeros where it is not there. `scratch` holds one
// encoded row.
void packed_row_of(const simd::Primitives& isa, const PackedTable& table, int64_t id,
                   uint8_t* scratch, float* out) {
  const PackedPlace place = find_packed_row(table, id);
  if (place.item_group < 0) {
    std::fill(out, out + table.geometry.dim, 0.0f);
    return;
  }
  const ItemGroupBytes bytes = item_group_bytes(table, place.item_group, place.rows);
  RowPieces row;
  packed_row(table.geometry, bytes, place.rows, table.directory[place.item_group].layers, place.row,
             scratch, row);
  decode_row(isa, table.geometry, table.levels, row, out);
}

// Calls row(index, group, to) for the pairs [begin, end) of a dense table, whose rows are then on
// their way.
template <typename Index, typename Row>
void for_dense_rows(const StoreTable& table, const LookupPairs<Index>& pairs, int64_t begin,
                    int64_t end, float* out, Row&& row) {
  const auto index_at = [&](int64_t m) { return static_cast<int64_t>(pairs.indices[m]); };
  for (int64_t m = begin; m < std::min(begin + kAhead, end); ++m) {
    prefetch_dense_row(table, index_at(m), pairs.group_at(m));
  }
  for (int64_t m = begin; m < end; ++m) {
    if (m + kAhead < end) {
      prefetch_dense_row(table, index_at(m + kAhead), pairs.group_at(m + kAhead));
    }
    row(index_at(m), pairs.group_at(m), out + m * table.geometry.dim);
  }
}

// Calls row(stored_row, to) for the pairs [begin, end); false when find_stored_row failed. Finding
// a row waits for its item group: a chunk of them waits together. The next chunk is found before
// one is read, so requests for rows go on from chunk to chunk.
template <typename Index, typename Row>
bool for_stored_rows(const StoreTable& table, const LookupPairs<Index>& pairs, int64_t begin,
                     int64_t end, float* out, Row&& row) {
  constexpr int64_t kChunk = 256;
  const auto index_at = [&](int64_t m) { return static_cast<int64_t>(pairs.indices[m]); };
  StoredRow found[2 * kChunk];  // that of pair begin + i at i % (2 * kChunk)
  const int64_t count = end - begin;
  const auto find = [&](int64_t first) {
    for (int64_t i = first; i < std::min(first + kChunk, count); ++i) {
      const int64_t m = begin + i;
      if (m + kChunk < end) {
        prefetch(item_group_of(table, index_at(m + kChunk), pairs.group_at(m + kChunk)),
                 sizeof(int32_t));
      }
      if (!find_stored_row(table, index_at(m), pairs.group_at(m), found[i % (2 * kChunk)])) {
        return false;
      }
    }
    return true;
  };
  if (!find(0)) return false;
  for (int64_t i = 0; i < std::min(kAhead, count); ++i) prefetch_stored_row(table, found[i]);
  for (int64_t i = 0; i < count; ++i) {
    if (i % kChunk == 0 && !find(i + kChunk)) return false;
    if (i + kAhead < count) prefetch_stored_row(table, found[(i + kAhead) % (2 * kChunk)]);
    row(found[i % (2 * kChunk)], out + (begin + i) * table.geometry.dim);
  }
  return true;
}

// Decodes the rows of the pairs [begin, end); false when find_stored_row failed.
template <typename Index>
bool decode_rows(const simd::Primitives& isa, const StoreTable& table,
                 const LookupPairs<Index>& pairs, int64_t begin, int64_t end, float* out) {
  if (table.geometry.layout == Layout::kPlanes) {
    return PlanesLookup<Index>(isa, table, pairs, out).run(begin, end);
  }
  return for_stored_rows(table, pairs, begin, end, out, [&](const StoredRow& row, float* to) {
    decode_stored_row(isa, table, row, to);
  });
}

// Turns `count` rows where they lie.
void rotate_rows(const simd::Primitives& isa, const float* rotation_t, int64_t count, int64_t dim,
                 float* rows) {
  constexpr int64_t kTogether = 16;
  std::vector<float> unrotated(static_cast<size_t>(kTogether * dim));
  for (int64_t r = 0; r < count; r += kTogether) {
    const int64_t some = std::min(kTogether, count - r);
    std::copy_n(rows + r * dim, some * dim, unrotated.data());
    isa.rotate(unrotated.data(), some, rotation_t, rows + r * dim, dim);
  }
}

// Adds the held part of one gradient row.
template <typename Index>
void add_held(const StoreTable& table, const LookupPairs<Index>& pairs, int64_t m,
              const float* grad_out, float* grad) {
  const Geometry& geometry = table.geometry;
  const float* from = grad_out + m * geometry.dim;
  if (geometry.layout == Layout::kDense) {
    for (int64_t d = 0; d < geometry.dim; ++d) grad[d] += from[d];
    return;
  }
  const uint64_t held =
      held_layers(table, static_cast<int64_t>(pairs.indices[m]), pairs.group_at(m));
  if (geometry.layout == Layout::kPlanes) {
    for (int64_t d = 0; d < geometry.dim && (held & 1u); ++d) grad[d] += from[d];
    return;
  }
  for (int32_t layer = 0; layer < geometry.num_layers; ++layer) {
    if (!((held >> layer) & 1u)) continue;
    const int64_t begin = geometry.layer_begin(layer);
    for (int64_t d = begin; d < begin + geometry.layer_width(layer); ++d) grad[d] += from[d];
  }
}

}  // namespace

template <typename Index>
LookupResult grouped_lookup(const StoreTable& table, const LookupPairs<Index>& pairs, float* out) {
  const bool dense = table.geometry.layout == Layout::kDense;
  const LookupResult checked =
      dense ? check(table, pairs) : check(pairs, table.num_embeddings, table.num_groups);
  if (checked.status != LookupStatus::kOk) return checked;
  if (dense && table.geometry.dim == 0) return checked;  // rows without values have no addresses
  std::atomic<bool> found{true};  // every row of an encoded table, which is checked as it is read
  const simd::Primitives& isa = simd::primitives();
  const int64_t dim = table.geometry.dim;
  const std::vector<float> rotation = transposed(table.rotation, dim);
  parallel_for(pairs.count, kGrain, [&](int64_t begin, int64_t end) {
    if (dense && !table.refinement_slot) {
      const auto bytes = static_cast<size_t>(dim) * sizeof(float);
      for_dense_rows(table, pairs, begin, end, out, [&](int64_t index, int64_t, float* to) {
        std::memcpy(to, table.weight + index * table.weight_stride, bytes);
      });
    } else if (dense) {
      for_dense_rows(table, pairs, begin, end, out, [&](int64_t index, int64_t group, float* to) {
        dense_row(table, index, group, to);
      });
    } else {
      // Rows that are to be rotated are still in the cache then.
      const int64_t step = table.rotation ? kRotated : end - begin;
      for (int64_t first = begin; first < end; first += step) {
        const int64_t last = std::min(first + step, end);
        if (!decode_rows(isa, table, pairs, first, last, out)) {
          found = false;
          return;
        }
        if (table.rotation) rotate_rows(isa, rotation.data(), last - first, dim, out + first * dim);
      }
    }
  });
  return found ? LookupResult{} : check_table(table, pairs);
}

template <typename Index>
LookupResult grouped_lookup(const PackedTable& table, const LookupPairs<Index>& pairs, float* out) {
  const LookupResult checked = check(pairs, table.num_embeddings, 1);
  if (checked.status != LookupStatus::kOk) return checked;
  const simd::Primitives& isa = simd::primitives();
  parallel_for(pairs.count, kGrain, [&](int64_t begin, int64_t end) {
    std::vector<uint64_t> scratch(static_cast<size_t>(encoded_row_bytes(table.geometry) / 8 + 1));
    auto* bytes = reinterpret_cast<uint8_t*>(scratch.data());
    for (int64_t m = begin; m < end; ++m) {
      packed_row_of(isa, table, static_cast<int64_t>(pairs.indices[m]), bytes,
                    out + m * table.geometry.dim);
    }
  });
  return {};
}

template <typename Index>
LookupResult grouped_lookup_backward(const StoreTable& table, const LookupPairs<Index>& pairs,
                                     const float* grad_out, const int64_t* targets,
                                     int64_t num_targets, bool mean_duplicates, float* grad) {
  const LookupResult checked = check(table, pairs);
  if (checked.status != LookupStatus::kOk) return checked;
  const int64_t dim = table.geometry.dim;
  const RowRuns runs(targets, pairs.count, num_targets);
  runs.for_each(kGrain, [&](int64_t first, int64_t last) {
    float* row = grad + runs.row(first) * dim;
    for (int64_t at = first; at < last; ++at) {
      if (at + kAhead < runs.size()) {
        prefetch(grad_out + runs.position(at + kAhead) * dim, dim * 4);
      }
      add_held(table, pairs, runs.position(at), grad_out, row);
    }
    if (!mean_duplicates) return;
    for (int64_t d = 0; d < dim; ++d) row[d] /= static_cast<float>(last - first);
  });
  return {};
}

#define PEEL_INSTANTIATE(Index)                                                                \
  template LookupResult grouped_lookup(const StoreTable&, const LookupPairs<Index>&, float*);  \
  template LookupResult grouped_lookup(const PackedTable&, const LookupPairs<Index>&, float*); \
  template LookupResult grouped_lookup_backward(const StoreTable&, const LookupPairs<Index>&,  \
                                                const float*, const int64_t*, int64_t, bool,   \
                                                float*);
PEEL_INSTANTIATE(int32_t)
PEEL_INSTANTIATE(int64_t)

}  // namespace peel
