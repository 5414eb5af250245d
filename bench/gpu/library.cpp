// The CUDA kernels for kernels.py, which calls them through ctypes on torch's memory and stream.
//
// Each function returns the bytes of workspace it needs, and does nothing else where `call` has
// none.
#include <cstdint>

#include "core/packed_rows.h"
#include "kernels/cuda/kernels.h"

using peel::cuda::Launch;

#define PEEL_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

// As `run` has it: layers of 2, 1 and 1 bits.
peel::Geometry four_bits(int64_t dim) {
  peel::Geometry geometry;
  geometry.layout = peel::Layout::kPlanes;
  geometry.dim = dim;
  geometry.num_layers = 3;
  geometry.layer_bits[0] = 2;
  geometry.layer_bits[1] = geometry.layer_bits[2] = 1;
  return geometry;
}

peel::LookupPairs<int64_t> pairs_of(const int64_t* indices, int64_t count) {
  peel::LookupPairs<int64_t> pairs;
  pairs.indices = indices;
  pairs.count = count;
  return pairs;
}

int64_t look_up(const peel::StoreTable& table, const int64_t* indices, int64_t count, float* out,
                const Launch* call) {
  const auto pairs = pairs_of(indices, count);
  if (call->workspace) peel::cuda::grouped_lookup(table, pairs, out, *call);
  return peel::cuda::grouped_lookup_workspace(table, pairs);
}

peel::ScoreArgs score_args(const float* users, int64_t num_users, int64_t dim, int64_t n,
                           float* scores, int64_t* indices) {
  peel::ScoreArgs args;
  args.users = users;
  args.num_users = num_users;
  args.user_stride = dim;
  args.n = n;
  args.scores = scores;
  args.indices = indices;
  return args;
}

}  // namespace

PEEL_EXPORT int64_t peel_lookup_dense(const float* weight, int64_t rows, int64_t dim,
                                      const int64_t* indices, int64_t count, float* out,
                                      const Launch* call) {
  peel::StoreTable table;
  table.geometry.dim = dim;
  table.num_embeddings = rows;
  table.weight = weight;
  table.weight_stride = dim;
  return look_up(table, indices, count, out, call);
}

// store [rows, dim / 8 * 4], scales fp16 [rows], item_group [rows], held [1], levels [510].
PEEL_EXPORT int64_t peel_lookup_planes(const uint8_t* store, const uint16_t* scales,
                                       const int32_t* item_group, const int64_t* held,
                                       const float* levels, int64_t rows, int64_t dim,
                                       const int64_t* indices, int64_t count, float* out,
                                       const Launch* call) {
  peel::StoreTable table;
  table.geometry = four_bits(dim);
  table.num_embeddings = rows;
  table.store = store;
  table.row_bytes = 4 * table.geometry.plane_bytes();
  table.scales = scales;
  table.scales_per_row = 1;
  table.item_group = item_group;
  table.held = held;
  table.num_item_groups = 1;
  table.levels = levels;
  return look_up(table, indices, count, out, call);
}

PEEL_EXPORT int64_t peel_adagrad(float* weight, int64_t rows, int64_t dim, const int64_t* indices,
                                 int64_t count, const float* gradients, float* sums,
                                 float learning_rate, float eps, const Launch* call) {
  peel::UpdateRows args;
  args.weight = weight;
  args.num_embeddings = rows;
  args.dim = args.weight_stride = args.gradient_stride = dim;
  args.indices = indices;
  args.count = count;
  args.gradients = gradients;
  args.first = sums;
  args.step_size = learning_rate;
  args.eps = eps;
  constexpr auto kRule = peel::UpdateRule::kRowwiseAdagrad;
  if (call->workspace) peel::cuda::update_rows<kRule>(args, *call);
  return peel::cuda::update_rows_workspace<kRule>(args);
}

PEEL_EXPORT int64_t peel_topk(const float* weights, int64_t n, int64_t k, bool sorted,
                              int64_t* indices, const Launch* call) {
  peel::TopkBlocks<float> args;
  args.num_groups = 1;
  args.n = args.weight_stride = n;
  args.weights = weights;
  args.k = k;
  args.sorted = sorted;
  args.indices = indices;
  if (call->workspace) peel::cuda::topk_blocks(args, *call);
  return peel::cuda::topk_blocks_workspace(args);
}

PEEL_EXPORT int64_t peel_score_dense(const float* weight, int64_t rows, int64_t dim,
                                     const float* users, int64_t num_users, int64_t n,
                                     float* scores, int64_t* indices, const Launch* call) {
  peel::DenseRows table;
  table.weight = weight;
  table.num_embeddings = rows;
  table.dim = table.weight_stride = dim;
  const auto args = score_args(users, num_users, dim, n, scores, indices);
  if (call->workspace) peel::cuda::gathered_score(table, args, *call);
  return peel::cuda::gathered_score_workspace(table, args);
}

// Where the blocks of an item group of `rows` rows lie, in kBlockAlignment, and where its scales
// do, in bytes; returns the bytes of all.
PEEL_EXPORT int64_t peel_packed_bytes(int64_t rows, int64_t dim, uint32_t* offsets,
                                      int64_t* scales) {
  const peel::Geometry geometry = four_bits(dim);
  int64_t at = 0;
  for (int32_t layer = 0; layer < geometry.num_layers; ++layer) {
    const peel::BlockBytes block = peel::block_bytes(geometry, 0, rows, layer);
    offsets[layer] = static_cast<uint32_t>(at / peel::kBlockAlignment);
    if (layer == 0) *scales = block.scales;
    at += block.end;
  }
  return at;
}

// Item groups of one size, each of peel_packed_bytes; `directory` and `offsets` as the table has
// them.
PEEL_EXPORT int64_t peel_score_planes(const void* directory, const uint32_t* offsets,
                                      int64_t num_item_groups, int64_t rows, int64_t dim,
                                      const uint8_t* bytes, const float* levels,
                                      const float* users, int64_t num_users, int64_t n,
                                      float* scores, int64_t* indices, const Launch* call) {
  peel::PackedTable table;
  table.geometry = four_bits(dim);
  table.num_embeddings = table.num_rows = rows;
  table.num_item_groups = num_item_groups;
  table.directory = static_cast<const peel::DirectoryEntry*>(directory);
  table.block_offsets = offsets;
  table.row_ids = peel::RowIds::kConsecutive;
  table.bytes = bytes;
  table.levels = levels;
  const auto args = score_args(users, num_users, dim, n, scores, indices);
  if (call->workspace) peel::cuda::gathered_score(table, args, *call);
  return peel::cuda::gathered_score_workspace(table, args);
}
