// The module of the kernels for CUDA devices: those of module.cpp, whose arguments are addresses on
// a device here, with how to launch them at the end. It takes tables of that module. Nothing waits
// for the device: what is wrong inside the data is noted where the caller said (kernels.h).
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <utility>
#include <vector>

#include "bindings/arguments.h"
#include "kernels/cuda/kernels.h"

namespace py = pybind11;

namespace peel {
namespace {

cuda::Launch make_launch(Address stream, Address workspace, int64_t workspace_bytes,
                         Address offenders) {
  return {at<void>(stream), at<void>(workspace), workspace_bytes, at<uint64_t>(offenders)};
}

// A kernel and its workspace take the same arguments, which are written down once.
#define PEEL_LAUNCH_PARAMETERS \
  Address stream, Address workspace, int64_t workspace_bytes, Address offenders
#define PEEL_LAUNCH make_launch(stream, workspace, workspace_bytes, offenders)

// ---- topk_blocks ----

#define PEEL_TOPK_PARAMETERS                                                               \
  Address weights, int weight_bytes, int64_t num_groups, int64_t n, int64_t weight_stride, \
      int64_t k, Address costs, int64_t cost_stride, Address budget_bytes, bool sorted,    \
      Address indices
#define PEEL_TOPK                                                                                  \
  make_topk_blocks<decltype(weight)>(weights, num_groups, n, weight_stride, k, costs, cost_stride, \
                                     budget_bytes, sorted, indices)

int64_t topk_workspace(PEEL_TOPK_PARAMETERS) {
  return with_weight(weight_bytes,
                     [&](auto weight) { return cuda::topk_blocks_workspace(PEEL_TOPK); });
}

void topk(PEEL_TOPK_PARAMETERS, PEEL_LAUNCH_PARAMETERS) {
  with_weight(weight_bytes, [&](auto weight) {
    cuda::topk_blocks(PEEL_TOPK, PEEL_LAUNCH);
    return 0;
  });
}

// ---- grouped_lookup ----

// A Personalized Elastic Embedding of which the parts were copied to the device.
PackedTable make_packed_table(int layout, int value_type, int64_t dim, int64_t block_dim,
                              const std::vector<int>& layer_bits, int64_t num_embeddings,
                              int64_t num_rows, int64_t num_item_groups, int row_ids,
                              int32_t id_bytes, Address directory, Address block_offsets,
                              Address listed_ids, Address bytes, Address levels) {
  PackedTable table;
  table.geometry = make_geometry(layout, value_type, dim, block_dim, layer_bits);
  table.num_embeddings = num_embeddings;
  table.num_rows = num_rows;
  table.num_item_groups = num_item_groups;
  table.directory = at<const DirectoryEntry>(directory);
  table.block_offsets = at<const uint32_t>(block_offsets);
  table.row_ids = static_cast<RowIds>(row_ids);
  table.id_bytes = id_bytes;
  table.listed_ids = at<const uint8_t>(listed_ids);
  table.bytes = at<const uint8_t>(bytes);
  table.levels = at<const float>(levels);
  return table;
}

template <typename Table>
int64_t lookup_workspace(const Table& table, int64_t count, Address indices, Address groups,
                         int64_t group, int index_bytes, Address) {
  return with_index(index_bytes, [&](auto index) {
    return cuda::grouped_lookup_workspace(
        table, make_pairs<decltype(index)>(count, indices, groups, group));
  });
}

template <typename Table>
void lookup(const Table& table, int64_t count, Address indices, Address groups, int64_t group,
            int index_bytes, Address out, PEEL_LAUNCH_PARAMETERS) {
  with_index(index_bytes, [&](auto index) {
    cuda::grouped_lookup(table, make_pairs<decltype(index)>(count, indices, groups, group),
                         at<float>(out), PEEL_LAUNCH);
    return 0;
  });
}

int64_t backward_workspace(const StoreTable& table, int64_t count, Address indices, Address groups,
                           int64_t group, int index_bytes, Address, Address, int64_t num_targets,
                           bool, Address) {
  return with_index(index_bytes, [&](auto index) {
    return cuda::grouped_lookup_backward_workspace(
        table, make_pairs<decltype(index)>(count, indices, groups, group), num_targets);
  });
}

void backward(const StoreTable& table, int64_t count, Address indices, Address groups,
              int64_t group, int index_bytes, Address grad_out, Address targets,
              int64_t num_targets, bool mean_duplicates, Address grad, PEEL_LAUNCH_PARAMETERS) {
  with_index(index_bytes, [&](auto index) {
    cuda::grouped_lookup_backward(table, make_pairs<decltype(index)>(count, indices, groups, group),
                                  at<const float>(grad_out), at<const int64_t>(targets),
                                  num_targets, mean_duplicates, at<float>(grad), PEEL_LAUNCH);
    return 0;
  });
}

// ---- gathered_score ----

#define PEEL_SCORE_PARAMETERS                                                                     \
  Address users, int64_t num_users, int64_t user_stride, Address exclude_indptr, Address exclude, \
      int64_t n, Address scores, Address indices
#define PEEL_SCORE \
  make_score_args(users, num_users, user_stride, exclude_indptr, exclude, n, scores, indices)
#define PEEL_DENSE_PARAMETERS                                                                     \
  Address weight, int64_t num_embeddings, int64_t dim, int64_t weight_stride, Address candidates, \
      int64_t num_candidates
#define PEEL_DENSE                                                                              \
  DenseRows {                                                                                   \
    at<const float>(weight), num_embeddings, dim, weight_stride, at<const int64_t>(candidates), \
        num_candidates                                                                          \
  }

int64_t score_workspace(PEEL_DENSE_PARAMETERS, PEEL_SCORE_PARAMETERS) {
  return cuda::gathered_score_workspace(PEEL_DENSE, PEEL_SCORE);
}

void score(PEEL_DENSE_PARAMETERS, PEEL_SCORE_PARAMETERS, PEEL_LAUNCH_PARAMETERS) {
  cuda::gathered_score(PEEL_DENSE, PEEL_SCORE, PEEL_LAUNCH);
}

int64_t packed_score_workspace(const PackedTable& table, PEEL_SCORE_PARAMETERS) {
  return cuda::gathered_score_workspace(table, PEEL_SCORE);
}

void packed_score(const PackedTable& table, PEEL_SCORE_PARAMETERS, PEEL_LAUNCH_PARAMETERS) {
  cuda::gathered_score(table, PEEL_SCORE, PEEL_LAUNCH);
}

// ---- update_rows ----

#define PEEL_UPDATE_PARAMETERS                                                                   \
  int rule, Address weight, int64_t num_embeddings, int64_t dim, int64_t weight_stride,          \
      Address indices, int64_t count, Address gradients, int64_t gradient_stride, Address first, \
      Address second, float step_size, float rate1, float rate2, float eps
#define PEEL_UPDATE                                                                       \
  make_update_rows(weight, num_embeddings, dim, weight_stride, indices, count, gradients, \
                   gradient_stride, first, second, step_size, rate1, rate2, eps)

int64_t update_workspace(PEEL_UPDATE_PARAMETERS) {
  return static_cast<UpdateRule>(rule) == UpdateRule::kAdam
             ? cuda::update_rows_workspace<UpdateRule::kAdam>(PEEL_UPDATE)
             : cuda::update_rows_workspace<UpdateRule::kRowwiseAdagrad>(PEEL_UPDATE);
}

void update(PEEL_UPDATE_PARAMETERS, PEEL_LAUNCH_PARAMETERS) {
  if (static_cast<UpdateRule>(rule) == UpdateRule::kAdam) {
    cuda::update_rows<UpdateRule::kAdam>(PEEL_UPDATE, PEEL_LAUNCH);
  } else {
    cuda::update_rows<UpdateRule::kRowwiseAdagrad>(PEEL_UPDATE, PEEL_LAUNCH);
  }
}

}  // namespace
}  // namespace peel

PYBIND11_MODULE(_cuda, m) {
  using namespace peel;
  m.doc() = "Kernels of peel_ext for CUDA devices.";
#ifdef PEEL_CUDA_SHIM
  m.attr("on_host") = true;  // addresses are those of host memory
#else
  m.attr("on_host") = false;
#endif
  py::class_<PackedTable>(m, "PackedTable").def(py::init(&make_packed_table));
  m.def("topk_blocks_workspace", &topk_workspace);
  m.def("topk_blocks", &topk);
  m.def("grouped_lookup_workspace", &lookup_workspace<StoreTable>);
  m.def("grouped_lookup_workspace", &lookup_workspace<PackedTable>);
  m.def("grouped_lookup", &lookup<StoreTable>);
  m.def("grouped_lookup", &lookup<PackedTable>);
  m.def("grouped_lookup_backward_workspace", &backward_workspace);
  m.def("grouped_lookup_backward", &backward);
  m.def("gathered_score_workspace", &score_workspace);
  m.def("gathered_score", &score);
  m.def("packed_score_workspace", &packed_score_workspace);
  m.def("packed_score", &packed_score);
  m.def("update_rows_workspace", &update_workspace);
  m.def("update_rows", &update);
}
