// Tensors of a library that offers the C functions of DLPack with their class. One such call says
// all of a tensor, in less time than Python takes to read one attribute of it.
#pragma once

#include <pybind11/pybind11.h>

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>

#include "bindings/arguments.h"
#include "core/out_of_range.h"
#include "kernels/grouped_lookup.h"

namespace peel {

namespace py = pybind11;

// A DLTensor of major version 1.
struct ForeignTensor {
  void* data;
  int32_t device_type;
  int32_t device_id;
  int32_t num_dims;
  uint8_t type_code;
  uint8_t bits;
  uint16_t lanes;
  const int64_t* shape;
  const int64_t* strides;  // in elements
  uint64_t byte_offset;
};
static_assert(sizeof(void*) != 8 || sizeof(ForeignTensor) == 48, "DLTensor has 48 bytes");

// A DLPackExchangeAPI of major version 1; functions that are not called here have no types.
struct ForeignInterface {
  uint32_t major;
  uint32_t minor;
  const ForeignInterface* older;
  void* allocate;
  void* export_tensor;
  void* import_tensor;
  int (*read)(void* object, ForeignTensor* out);  // 0, or -1 with Python's error set
  void* current_stream;
};

// Looks tensors up that are as the kernel reads them. To everything else it says that they are not,
// and leaves it to Python to bring them together, or to say what is wrong.
class TensorReader {
 public:
  // Null where the class of tensors offers no functions of this version. `new_rows` makes a tensor
  // float32 on the CPU of sizes, which are its arguments.
  static std::unique_ptr<TensorReader> of(py::object kind, py::object new_rows) {
    const py::object offered = py::getattr(kind, "__dlpack_c_exchange_api__", py::none());
    if (!PyCapsule_IsValid(offered.ptr(), kName)) return nullptr;
    const auto* interface =
        static_cast<const ForeignInterface*>(PyCapsule_GetPointer(offered.ptr(), kName));
    while (interface && interface->major != 1) interface = interface->older;
    if (!interface || !interface->read) return nullptr;
    return std::unique_ptr<TensorReader>(
        new TensorReader(std::move(kind), std::move(new_rows), offered, interface));
  }

  // Rows [*indices.shape, dim], or None. `groups` is an int, or a tensor like the indices.
  py::object lookup(const StoreTable& table, const py::object& indices,
                    const py::object& groups) const {
    ForeignTensor each, of_each;
    if (!read_integers(indices, each)) return py::none();
    Address address = 0;
    int64_t group = 0;
    if (PyLong_CheckExact(groups.ptr())) {
      int overflow = 0;
      group = PyLong_AsLongLongAndOverflow(groups.ptr(), &overflow);
      if (overflow) return py::none();
    } else {
      if (!read_integers(groups, of_each) || !are_alike(each, of_each)) return py::none();
      address = address_of(of_each);
    }
    ForeignTensor out;
    py::object rows = make_rows(each, table.geometry.dim);
    if (!read(rows, out) || !is_adjacent(out) || out.type_code != kFloat || out.bits != 32) {
      return py::none();
    }
    const int64_t count = count_of(each);
    const LookupResult result = with_index(each.bits / 8, [&](auto index) {
      // Few rows are there before another thread could have taken its turn.
      std::optional<py::gil_scoped_release> release;
      if (count >= kMany) release.emplace();
      const auto pairs = make_pairs<decltype(index)>(count, address_of(each), address, group);
      return grouped_lookup(table, pairs, at<float>(address_of(out)));
    });
    return result.status == LookupStatus::kOk ? rows : py::none();
  }

  // True if `values` are integers in [0, limit), one of each of `like`; false where somebody else
  // has to look.
  bool are_below(const py::object& values, const py::object& like, int64_t limit) const {
    ForeignTensor each, other;
    if (!read_integers(values, each) || !read(like, other) || !has_shape_of(each, other)) {
      return false;
    }
    return with_index(each.bits / 8, [&](auto index) {
             return first_out_of_range(at<const decltype(index)>(address_of(each)), count_of(each),
                                       limit);
           }) < 0;
  }

 private:
  static constexpr const char* kName = "dlpack_exchange_api";
  static constexpr int32_t kProcessor = 1;            // of DLDeviceType
  static constexpr uint8_t kInteger = 0, kFloat = 2;  // of DLDataTypeCode
  static constexpr int32_t kMostDims = 8;
  static constexpr int64_t kMany = 256;

  TensorReader(py::object kind, py::object new_rows, py::object offered,
               const ForeignInterface* interface)
      : kind_(std::move(kind)),
        new_rows_(std::move(new_rows)),
        offered_(std::move(offered)),
        interface_(interface) {}

  // False for what is no tensor of exactly this class, or cannot be read.
  bool read(const py::object& object, ForeignTensor& out) const {
    if (reinterpret_cast<PyObject*>(Py_TYPE(object.ptr())) != kind_.ptr()) return false;
    if (interface_->read(object.ptr(), &out) == 0) return out.num_dims <= kMostDims;
    PyErr_Clear();
    return false;
  }

  bool read_integers(const py::object& object, ForeignTensor& out) const {
    return read(object, out) && is_adjacent(out) && out.type_code == kInteger && out.lanes == 1 &&
           (out.bits == 64 || out.bits == 32);
  }

  static int64_t count_of(const ForeignTensor& tensor) {
    int64_t count = 1;
    for (int32_t d = 0; d < tensor.num_dims; ++d) count *= tensor.shape[d];
    return count;
  }

  static Address address_of(const ForeignTensor& tensor) {
    return reinterpret_cast<Address>(tensor.data) + tensor.byte_offset;
  }

  // True if all values lie one after another in memory of the processor.
  static bool is_adjacent(const ForeignTensor& tensor) {
    if (tensor.device_type != kProcessor) return false;
    const int64_t count = count_of(tensor);
    int64_t step = 1;
    for (int32_t d = tensor.num_dims - 1; d >= 0 && count > 0; --d) {
      if (tensor.shape[d] != 1 && tensor.strides[d] != step) return false;
      step *= tensor.shape[d];
    }
    return tensor.data || count == 0;  // there are tensors of zeros that have no memory
  }

  static bool has_shape_of(const ForeignTensor& one, const ForeignTensor& other) {
    bool same = one.num_dims == other.num_dims;
    for (int32_t d = 0; same && d < one.num_dims; ++d) same = one.shape[d] == other.shape[d];
    return same;
  }

  static bool are_alike(const ForeignTensor& one, const ForeignTensor& other) {
    return one.bits == other.bits && has_shape_of(one, other);
  }

  py::object make_rows(const ForeignTensor& each, int64_t dim) const {
    std::array<py::object, kMostDims + 1> sizes;
    std::array<PyObject*, kMostDims + 1> args;
    const auto num_sizes = static_cast<size_t>(each.num_dims) + 1;
    for (size_t d = 0; d < num_sizes; ++d) {
      sizes[d] = py::int_(d + 1 < num_sizes ? each.shape[d] : dim);
      args[d] = sizes[d].ptr();
    }
    PyObject* made = PyObject_Vectorcall(new_rows_.ptr(), args.data(), num_sizes, nullptr);
    if (!made) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(made);
  }

  py::object kind_, new_rows_;
  py::object offered_;  // keeps the functions
  const ForeignInterface* interface_;
};

}  // namespace peel
