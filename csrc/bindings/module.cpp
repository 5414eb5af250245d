// The one pybind11 module. Arguments are addresses, sizes and strides in elements; the Python side
// (ops/_bridge.py, device/_bridge.py) has checked their meaning and keeps the memory alive.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bindings/device.h"
#include "core/executor.h"
#include "core/out_of_range.h"
#include "kernels/gathered_score.h"
#include "kernels/grouped_lookup.h"
#include "kernels/topk_blocks.h"
#include "kernels/update_rows.h"
#include "simd/primitives.h"

namespace py = pybind11;

namespace peel {
namespace {

// Calls f with a value of the index type that has `bytes` bytes.
template <typename F>
auto with_index(int bytes, F&& f) {
  if (bytes == 4) return f(int32_t{});
  if (bytes == 8) return f(int64_t{});
  throw std::invalid_argument("index bytes must be 4 or 8, got " + std::to_string(bytes));
}

using Outcome = std::pair<int, int64_t>;  // LookupStatus, position
Outcome outcome(const LookupResult& result) {
  return {static_cast<int>(result.status), result.position};
}

// ---- topk_blocks ----

int64_t bind_topk_blocks(Address weights, int weight_bytes, int64_t num_groups, int64_t n,
                         int64_t weight_stride, int64_t k, Address costs, int64_t cost_stride,
                         Address budget_bytes, bool sorted, Address indices) {
  const auto run = [&](auto weight) {
    using Weight = decltype(weight);
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
    const py::gil_scoped_release release;
    return topk_blocks(args);
  };
  if (weight_bytes == 4) return run(float{});
  if (weight_bytes == 8) return run(double{});
  throw std::invalid_argument("weight bytes must be 4 or 8, got " + std::to_string(weight_bytes));
}

// ---- grouped_lookup ----

// Holds addresses only; the Python object that made it keeps the memory alive.
StoreTable make_store_table(int layout, int value_type, int64_t dim, int64_t block_dim,
                            const std::vector<int>& layer_bits, int64_t num_embeddings,
                            int64_t num_groups, Address weight, int64_t weight_stride,
                            Address refinement, Address refinement_slot, int64_t num_refined,
                            Address store, int64_t row_bytes, Address scales,
                            int64_t scales_per_row, Address item_group, int64_t item_group_stride,
                            Address held, int64_t num_item_groups, Address centroids,
                            Address rotation) {
  StoreTable table;
  Geometry& geometry = table.geometry;
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
  table.centroids = at<const float>(centroids);
  table.rotation = at<const float>(rotation);
  return table;
}

template <typename Index>
LookupPairs<Index> make_pairs(int64_t count, Address indices, Address groups, int64_t group) {
  return {count, at<const Index>(indices), at<const Index>(groups), group};
}

Outcome bind_grouped_lookup(const StoreTable& table, int64_t count, Address indices, Address groups,
                            int64_t group, int index_bytes, Address out) {
  return with_index(index_bytes, [&](auto index) {
    const py::gil_scoped_release release;
    return outcome(grouped_lookup(table, make_pairs<decltype(index)>(count, indices, groups, group),
                                  at<float>(out)));
  });
}

Outcome bind_grouped_lookup_backward(const StoreTable& table, int64_t count, Address indices,
                                     Address groups, int64_t group, int index_bytes,
                                     Address grad_out, Address targets, int64_t num_targets,
                                     bool mean_duplicates, Address grad) {
  return with_index(index_bytes, [&](auto index) {
    const py::gil_scoped_release release;
    return outcome(
        grouped_lookup_backward(table, make_pairs<decltype(index)>(count, indices, groups, group),
                                at<const float>(grad_out), at<const int64_t>(targets), num_targets,
                                mean_duplicates, at<float>(grad)));
  });
}

// ---- gathered_score ----

ScoreArgs make_score_args(Address users, int64_t num_users, int64_t user_stride,
                          Address exclude_indptr, Address exclude, int64_t n, Address scores,
                          Address indices) {
  return {
      at<const float>(users),     num_users, user_stride,       at<const int64_t>(exclude_indptr),
      at<const int64_t>(exclude), n,         at<float>(scores), at<int64_t>(indices)};
}

void bind_gathered_score(Address weight, int64_t num_embeddings, int64_t dim, int64_t weight_stride,
                         Address candidates, int64_t num_candidates, Address users,
                         int64_t num_users, int64_t user_stride, Address exclude_indptr,
                         Address exclude, int64_t n, Address scores, Address indices) {
  const DenseRows rows{at<const float>(weight),       num_embeddings, dim, weight_stride,
                       at<const int64_t>(candidates), num_candidates};
  const ScoreArgs args =
      make_score_args(users, num_users, user_stride, exclude_indptr, exclude, n, scores, indices);
  const py::gil_scoped_release release;
  gathered_score(rows, args);
}

// ---- update_rows ----

int64_t bind_update_rows(int rule, Address weight, int64_t num_embeddings, int64_t dim,
                         int64_t weight_stride, Address indices, int64_t count, Address gradients,
                         int64_t gradient_stride, Address first, Address second, float step_size,
                         float rate1, float rate2, float eps) {
  const UpdateRows args{at<float>(weight),
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
  const py::gil_scoped_release release;
  return static_cast<UpdateRule>(rule) == UpdateRule::kAdam
             ? update_rows<UpdateRule::kAdam>(args)
             : update_rows<UpdateRule::kRowwiseAdagrad>(args);
}

std::vector<std::string> isas() {
  std::vector<std::string> names;
  for (const simd::Primitives* const* set = simd::available(); *set; ++set) {
    names.emplace_back((*set)->name);
  }
  return names;
}

int64_t bind_first_out_of_range(Address values, int bytes, int64_t count, int64_t limit) {
  return with_index(bytes, [&](auto index) {
    return first_out_of_range(at<const decltype(index)>(values), count, limit);
  });
}

}  // namespace
}  // namespace peel

PYBIND11_MODULE(_core, m) {
  using namespace peel;
  m.doc() = "Native kernels of peel_ext.";
  m.attr("__version__") = PEEL_VERSION;
  m.attr("compiler") = __VERSION__;
  m.attr("cuda") = false;
  m.def("isa", [] { return std::string(simd::primitives().name); });
  m.def("isas", &isas);
  m.def("num_threads", &num_threads);
  m.def("set_num_threads", &set_num_threads, py::arg("count"));
  m.def("first_out_of_range", &bind_first_out_of_range, py::arg("values"), py::arg("bytes"),
        py::arg("count"), py::arg("limit"));
  m.def("topk_blocks", &bind_topk_blocks, py::arg("weights"), py::arg("weight_bytes"),
        py::arg("num_groups"), py::arg("n"), py::arg("weight_stride"), py::arg("k"),
        py::arg("costs"), py::arg("cost_stride"), py::arg("budget_bytes"), py::arg("sorted"),
        py::arg("indices"));
  py::class_<StoreTable>(m, "StoreTable")
      .def(py::init(&make_store_table), py::arg("layout"), py::arg("value_type"), py::arg("dim"),
           py::arg("block_dim"), py::arg("layer_bits"), py::arg("num_embeddings"),
           py::arg("num_groups"), py::arg("weight"), py::arg("weight_stride"),
           py::arg("refinement"), py::arg("refinement_slot"), py::arg("num_refined"),
           py::arg("store"), py::arg("row_bytes"), py::arg("scales"), py::arg("scales_per_row"),
           py::arg("item_group"), py::arg("item_group_stride"), py::arg("held"),
           py::arg("num_item_groups"), py::arg("centroids"), py::arg("rotation"));
  m.def("grouped_lookup", &bind_grouped_lookup, py::arg("table"), py::arg("count"),
        py::arg("indices"), py::arg("groups"), py::arg("group"), py::arg("index_bytes"),
        py::arg("out"));
  m.def("grouped_lookup_backward", &bind_grouped_lookup_backward, py::arg("table"),
        py::arg("count"), py::arg("indices"), py::arg("groups"), py::arg("group"),
        py::arg("index_bytes"), py::arg("grad_out"), py::arg("targets"), py::arg("num_targets"),
        py::arg("mean_duplicates"), py::arg("grad"));
  m.def("gathered_score", &bind_gathered_score, py::arg("weight"), py::arg("num_embeddings"),
        py::arg("dim"), py::arg("weight_stride"), py::arg("candidates"), py::arg("num_candidates"),
        py::arg("users"), py::arg("num_users"), py::arg("user_stride"), py::arg("exclude_indptr"),
        py::arg("exclude"), py::arg("n"), py::arg("scores"), py::arg("indices"));
  m.def("update_rows", &bind_update_rows, py::arg("rule"), py::arg("weight"),
        py::arg("num_embeddings"), py::arg("dim"), py::arg("weight_stride"), py::arg("indices"),
        py::arg("count"), py::arg("gradients"), py::arg("gradient_stride"), py::arg("first"),
        py::arg("second"), py::arg("step_size"), py::arg("rate1"), py::arg("rate2"),
        py::arg("eps"));
  bind_device(m);
}
