// The one pybind11 module. Arguments are addresses, sizes and strides in elements; the Python side
// (ops/_bridge.py, device/_bridge.py) has checked their meaning and keeps the memory alive. Only a
// TensorReader is given tensors, and checks them itself.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bindings/arguments.h"
#include "bindings/device.h"
#include "bindings/tensors.h"
#include "core/executor.h"
#include "core/out_of_range.h"
#include "device/peel.h"
#include "kernels/gathered_score.h"
#include "kernels/grouped_lookup.h"
#include "kernels/topk_blocks.h"
#include "kernels/update_rows.h"
#include "simd/primitives.h"

namespace py = pybind11;

namespace peel {
namespace {

using Outcome = std::pair<int, int64_t>;  // LookupStatus, position
Outcome outcome(const LookupResult& result) {
  return {static_cast<int>(result.status), result.position};
}

// ---- topk_blocks ----

int64_t bind_topk_blocks(Address weights, int weight_bytes, int64_t num_groups, int64_t n,
                         int64_t weight_stride, int64_t k, Address costs, int64_t cost_stride,
                         Address budget_bytes, bool sorted, Address indices) {
  return with_weight(weight_bytes, [&](auto weight) {
    const auto args =
        make_topk_blocks<decltype(weight)>(weights, num_groups, n, weight_stride, k, costs,
                                           cost_stride, budget_bytes, sorted, indices);
    const py::gil_scoped_release release;
    return topk_blocks(args);
  });
}

// ---- grouped_lookup ----

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
  const UpdateRows args =
      make_update_rows(weight, num_embeddings, dim, weight_stride, indices, count, gradients,
                       gradient_stride, first, second, step_size, rate1, rate2, eps);
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
           py::arg("num_item_groups"), py::arg("levels"), py::arg("rotation"));
  m.def("grouped_lookup", &bind_grouped_lookup, py::arg("table"), py::arg("count"),
        py::arg("indices"), py::arg("groups"), py::arg("group"), py::arg("index_bytes"),
        py::arg("out"));
  m.def("grouped_lookup_backward", &bind_grouped_lookup_backward, py::arg("table"),
        py::arg("count"), py::arg("indices"), py::arg("groups"), py::arg("group"),
        py::arg("index_bytes"), py::arg("grad_out"), py::arg("targets"), py::arg("num_targets"),
        py::arg("mean_duplicates"), py::arg("grad"));
  bind_device(m);
  py::class_<TensorReader>(m, "TensorReader")
      .def_static("of", &TensorReader::of, py::arg("kind"), py::arg("parameter"),
                  py::arg("new_floats"), py::arg("new_ints"))
      .def("lookup", &TensorReader::lookup, py::arg("table"), py::arg("indices"), py::arg("groups"))
      .def("lookup_dense", &TensorReader::lookup_dense, py::arg("weight"), py::arg("indices"),
           py::arg("groups"), py::arg("num_groups"))
      .def("are_below", &TensorReader::are_below, py::arg("values"), py::arg("like"),
           py::arg("limit"))
      .def("stamp", &TensorReader::stamp, py::arg("tensors"))
      .def("score", &TensorReader::score, py::arg("table"), py::arg("users"), py::arg("n"))
      .def("score_held", &TensorReader::score_held, py::arg("held"), py::arg("users"), py::arg("n"))
      .def("largest", &TensorReader::largest, py::arg("weights"), py::arg("k"), py::arg("sorted"));
  m.def("gathered_score", &bind_gathered_score, py::arg("weight"), py::arg("num_embeddings"),
        py::arg("dim"), py::arg("weight_stride"), py::arg("candidates"), py::arg("num_candidates"),
        py::arg("users"), py::arg("num_users"), py::arg("user_stride"), py::arg("exclude_indptr"),
        py::arg("exclude"), py::arg("n"), py::arg("scores"), py::arg("indices"));
  m.def("update_rows", &bind_update_rows, py::arg("rule"), py::arg("weight"),
        py::arg("num_embeddings"), py::arg("dim"), py::arg("weight_stride"), py::arg("indices"),
        py::arg("count"), py::arg("gradients"), py::arg("gradient_stride"), py::arg("first"),
        py::arg("second"), py::arg("step_size"), py::arg("rate1"), py::arg("rate2"),
        py::arg("eps"));
}
