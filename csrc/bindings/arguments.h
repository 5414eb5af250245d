// What both modules make of the arguments they are called with: addresses, sizes and strides.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/gathered_score.h"
#include "kernels/grouped_lookup.h"
#include "kernels/topk_blocks.h"
#include "kernels/update_rows.h"

namespace peel {

using Address = uintptr_t;

template <typename T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

// Calls f with a value of the index type that has `bytes` bytes.
template <typename F>
auto with_index(int bytes, F&& f) {
  if (bytes == 4) return f(int32_t{});
  if (bytes == 8) return f(int64_t{});
  throw std::invalid_argument("index bytes must be 4 or 8, got " + std::to_string(bytes));
}

// Calls f with a value of the type of weights that has `bytes` bytes.
template <typename F>
auto with_weight(int bytes, F&& f) {
  if (bytes == 4) return f(float{});
  if (bytes == 8) return f(double{});
  throw std::invalid_argument("weight bytes must be 4 or 8, got " + std::to_string(bytes));
}

template <typename Weight>
TopkBlocks<Weight> make_topk_blocks(Address weights, int64_t num_groups, int64_t n,
                                    int64_t weight_stride, int64_t k, Address costs,
                                    int64_t cost_stride, Address budget_bytes, bool sorted,
                                    Address indices) {
  TopkBlocks<Weight> args;
  args.num_groups = num_groups;
  args.n = n;
  args.weights = at<const Weight>(weights);
  args.weight_stride = weight_stride;
  args.k = k;
  args.costs = at<const int64_t>(costs);
  args.cost_stride = cost_stride;
  args.budget_bytes = at<const int64_t>(budget_bytes);
  args.sorted = sorted;
  args.indices = at<int64_t>(indices);
  return args;
}

// A Geometry of the numbers Python has of a layout. Throws std::invalid_argument.
inline Geometry make_geometry(int layout, int value_type, int64_t dim, int64_t block_dim,
                              const std::vector<int>& layer_bits) {
  Geometry geometry;
  geometry.layout = static_cast<Layout>(layout);
  geometry.value_type = static_cast<ValueType>(value_type);
  geometry.dim = dim;
  geometry.block_dim = block_dim;
  if (geometry.layout == Layout::kColumns) {
    if (block_dim < 1 || (dim + block_dim - 1) / block_dim > kMaxLayers) {
      throw std::invalid_argument("block_dim does not fit dim");
    }
    geometry.num_layers = static_cast<int32_t>((dim + block_dim - 1) / block_dim);
  } else if (geometry.layout == Layout::kPlanes) {
    int bits = 0;
    for (const int more : layer_bits) {
      bits += more;
      if (more < 1 || bits > kMaxBits) throw std::invalid_argument("layer_bits out of range");
      geometry.layer_bits[geometry.num_layers++] = more;
    }
  }
  return geometry;
}

// Holds addresses only; the Python object that made it keeps the memory alive.
inline StoreTable make_store_table(int layout, int value_type, int64_t dim, int64_t block_dim,
                                   const std::vector<int>& layer_bits, int64_t num_embeddings,
                                   int64_t num_groups, Address weight, int64_t weight_stride,
                                   Address refinement, Address refinement_slot, int64_t num_refined,
                                   Address store, int64_t row_bytes, Address scales,
                                   int64_t scales_per_row, Address item_group,
                                   int64_t item_group_stride, Address held, int64_t num_item_groups,
                                   Address levels, Address rotation) {
  StoreTable table;
  table.geometry = make_geometry(layout, value_type, dim, block_dim, layer_bits);
  table.num_embeddings = num_embeddings;
  table.num_groups = num_groups;
  table.weight = at<const float>(weight);
  table.weight_stride = weight_stride;
  table.refinement = at<const float>(refinement);
  table.refinement_slot = at<const int32_t>(refinement_slot);
  table.num_refined = num_refined;
  table.store = at<const uint8_t>(store);
  table.row_bytes = row_bytes;
  table.scales = at<const uint16_t>(scales);
  table.scales_per_row = scales_per_row;
  table.item_group = at<const int32_t>(item_group);
  table.item_group_stride = item_group_stride;
  table.held = at<const int64_t>(held);
  table.num_item_groups = num_item_groups;
  table.levels = at<const float>(levels);
  table.rotation = at<const float>(rotation);
  return table;
}

template <typename Index>
LookupPairs<Index> make_pairs(int64_t count, Address indices, Address groups, int64_t group) {
  return {count, at<const Index>(indices), at<const Index>(groups), group};
}

inline ScoreArgs make_score_args(Address users, int64_t num_users, int64_t user_stride,
                                 Address exclude_indptr, Address exclude, int64_t n, Address scores,
                                 Address indices) {
  return {
      at<const float>(users),     num_users, user_stride,       at<const int64_t>(exclude_indptr),
      at<const int64_t>(exclude), n,         at<float>(scores), at<int64_t>(indices)};
}

inline UpdateRows make_update_rows(Address weight, int64_t num_embeddings, int64_t dim,
                                   int64_t weight_stride, Address indices, int64_t count,
                                   Address gradients, int64_t gradient_stride, Address first,
                                   Address second, float step_size, float rate1, float rate2,
                                   float eps) {
  return {at<float>(weight),
          num_embeddings,
          dim,
          weight_stride,
          at<const int64_t>(indices),
          count,
          at<const float>(gradients),
          gradient_stride,
          at<float>(first),
          at<float>(second),
          step_size,
          rate1,
          rate2,
          eps};
}

}  // namespace peel
