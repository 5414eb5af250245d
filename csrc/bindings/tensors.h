// Tensors of a library that offers the C functions of DLPack with their class. One such call says
// all of a tensor, in less time than Python takes to read one attribute of it.
#pragma once

#include <pybind11/pybind11.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>

#include "bindings/arguments.h"
#include "bindings/device.h"
#include "core/out_of_range.h"
#include "kernels/gathered_score.h"
#include "kernels/grouped_lookup.h"
#include "kernels/topk_blocks.h"

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

// Calls kernels with tensors that are as the kernels read them. To everything else it says that
// they are not, and leaves it to Python to bring them together, or to say what is wrong.
class TensorReader {
 public:
  // Null where the class of tensors offers no functions of this version. `parameter` is the one
  // class made of it whose tensors are read as well. `new_floats` and `new_ints` make tensors
  // float32 and int64 on the CPU of sizes, which are their arguments.
  static std::unique_ptr<TensorReader> of(py::object kind, py::object parameter,
                                          py::object new_floats, py::object new_ints) {
    const py::object offered = py::getattr(kind, "__dlpack_c_exchange_api__", py::none());
    if (!PyCapsule_IsValid(offered.ptr(), kName)) return nullptr;
    const auto* interface =
        static_cast<const ForeignInterface*>(PyCapsule_GetPointer(offered.ptr(), kName));
    while (interface && interface->major != 1) interface = interface->older;
    if (!interface || !interface->read) return nullptr;
    return std::unique_ptr<TensorReader>(new TensorReader(std::move(kind), std::move(parameter),
                                                          std::move(new_floats),
                                                          std::move(new_ints), offered, interface));
  }

  // Rows [*indices.shape, dim], or None. `groups` is an int, or a tensor like the indices.
  py::object lookup(const StoreTable& table, const py::object& indices,
                    const py::object& groups) const {
    ForeignTensor each, of_each;
    if (!read_integers(indices, each)) return py::none();
    Address address = 0;
    int64_t group = 0;
    if (!read_int(groups, group)) {
      if (!read_integers(groups, of_each) || !are_alike(each, of_each)) return py::none();
      address = address_of(of_each);
    }
    std::array<int64_t, kMostDims + 1> sizes;
    std::copy_n(each.shape, each.num_dims, sizes.begin());
    sizes[static_cast<size_t>(each.num_dims)] = table.geometry.dim;
    const Made rows = make(new_floats_, kFloat, 32, sizes.data(), each.num_dims + 1);
    if (!rows.address) return py::none();
    const int64_t count = count_of(each);
    const LookupResult result = with_index(each.bits / 8, [&](auto index) {
      // Few rows are there before another thread could have taken its turn.
      std::optional<py::gil_scoped_release> release;
      if (count >= kMany) release.emplace();
      const auto pairs = make_pairs<decltype(index)>(count, address_of(each), address, group);
      return grouped_lookup(table, pairs, at<float>(*rows.address));
    });
    return result.status == LookupStatus::kOk ? rows.tensor : py::none();
  }

  // The same of a weight that is a tensor, which all user groups have.
  py::object lookup_dense(const py::object& weight, const py::object& indices,
                          const py::object& groups, const py::object& num_groups) const {
    ForeignTensor given;
    StoreTable table;
    if (!read_int(num_groups, table.num_groups) || table.num_groups < 1) return py::none();
    if (!read(weight, given) || given.num_dims != 2 || !has_float_rows(given, 32))
      return py::none();
    table.geometry.dim = given.shape[1];
    table.num_embeddings = given.shape[0];
    table.weight = at<const float>(address_of(given));
    table.weight_stride = given.strides[0];
    return lookup(table, indices, groups);
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

  // Bytes that are equal to those of before as long as every tensor of a tuple has the memory, the
  // type, the shape and the strides it had, and its count of changes says the same; None where they
  // cannot be read.
  py::object stamp(const py::object& tensors) const {
    std::array<int64_t, kMostStamped * (3 + 2 * kMostDims)> said;
    if (!PyTuple_CheckExact(tensors.ptr()) || py::len(tensors) > kMostStamped) return py::none();
    int64_t* at = said.data();
    for (const py::handle tensor : py::reinterpret_borrow<py::tuple>(tensors)) {
      ForeignTensor now;
      if (!is_kind(tensor) || !read_memory(tensor, now)) return py::none();
      PyObject* version = PyObject_GetAttr(tensor.ptr(), version_.ptr());
      if (!version) throw py::error_already_set();
      *at++ = py::reinterpret_steal<py::int_>(version).operator int64_t();
      *at++ = static_cast<int64_t>(address_of(now));
      *at++ = now.type_code << 24 | now.bits << 16 | now.num_dims;
      at = std::copy_n(now.shape, now.num_dims, at);
      at = std::copy_n(now.strides, now.num_dims, at);
    }
    return py::bytes(reinterpret_cast<const char*>(said.data()),
                     static_cast<size_t>(at - said.data()) * sizeof(int64_t));
  }

  // (indices, scores), both [num_users, n], of the best rows of a dense table, or None.
  py::object score(const py::object& table, const py::object& users, const py::object& n) const {
    ForeignTensor given;
    if (!read(table, given) || given.num_dims != 2 || !has_float_rows(given, 32)) return py::none();
    const DenseRows rows{at<const float>(address_of(given)),
                         given.shape[0],
                         given.shape[1],
                         given.strides[0],
                         nullptr,
                         0};
    return best_rows(users, rows.dim, n,
                     [&](const ScoreArgs& args) { gathered_score(rows, args); });
  }

  // The same of the rows of a Personalized Elastic Embedding.
  py::object score_held(const Pee& held, const py::object& users, const py::object& n) const {
    return best_rows(users, held.dim(), n,
                     [&](const ScoreArgs& args) { gathered_score(held.table(), args); });
  }

  // Indices [num_groups, k], or [k] of weights [n], of the k largest of each group, or None.
  py::object largest(const py::object& weights, const py::object& k, bool sorted) const {
    ForeignTensor given;
    int64_t count;
    if (!read(weights, given) || given.num_dims < 1 || given.num_dims > 2) return py::none();
    if (!has_float_rows(given, 32) && !has_float_rows(given, 64)) return py::none();
    const bool one = given.num_dims == 1;
    const int64_t groups = one ? 1 : given.shape[0];
    const int64_t n = given.shape[given.num_dims - 1];
    if (!read_int(k, count) || count < 0 || count > n || n >= int64_t{1} << 32) return py::none();
    const std::array<int64_t, 2> sizes{groups, count};
    const Made indices = make(new_ints_, kInteger, 64, sizes.data() + one, given.num_dims);
    if (!indices.address) return py::none();
    const int64_t nan = with_weight(given.bits / 8, [&](auto weight) {
      const auto args = make_topk_blocks<decltype(weight)>(address_of(given), groups, n,
                                                           one ? n : given.strides[0], count, 0, 0,
                                                           0, sorted, *indices.address);
      std::optional<py::gil_scoped_release> release;
      if (groups * n >= kManyWeights) release.emplace();
      return topk_blocks(args);
    });
    return nan < 0 ? indices.tensor : py::none();
  }

 private:
  static constexpr const char* kName = "dlpack_exchange_api";
  static constexpr int32_t kProcessor = 1;            // of DLDeviceType
  static constexpr uint8_t kInteger = 0, kFloat = 2;  // of DLDataTypeCode
  static constexpr int32_t kMostDims = 8;
  static constexpr size_t kMostStamped = 8;
  static constexpr int64_t kMany = 256;
  static constexpr int64_t kManyWeights = 4096;

  // A tensor and the address of its memory; none where it is not what was asked for.
  struct Made {
    py::object tensor;
    std::optional<Address> address;
  };

  TensorReader(py::object kind, py::object parameter, py::object new_floats, py::object new_ints,
               py::object offered, const ForeignInterface* interface)
      : is_negated_(kind.attr("is_neg")),
        kind_(std::move(kind)),
        parameter_(std::move(parameter)),
        new_floats_(std::move(new_floats)),
        new_ints_(std::move(new_ints)),
        offered_(std::move(offered)),
        version_(py::reinterpret_steal<py::object>(PyUnicode_InternFromString("_version"))),
        interface_(interface) {}

  template <typename Kernel>
  py::object best_rows(const py::object& users, int64_t dim, const py::object& n,
                       Kernel&& kernel) const {
    ForeignTensor given;
    int64_t count;
    if (!read(users, given) || given.num_dims != 2 || given.shape[1] != dim ||
        !has_float_rows(given, 32) || !are_finite(given) || !read_int(n, count) || count < 1) {
      return py::none();
    }
    const std::array<int64_t, 2> sizes{given.shape[0], count};
    const Made indices = make(new_ints_, kInteger, 64, sizes.data(), 2);
    const Made scores = make(new_floats_, kFloat, 32, sizes.data(), 2);
    if (!indices.address || !scores.address) return py::none();
    const ScoreArgs args = make_score_args(address_of(given), sizes[0], given.strides[0], 0, 0,
                                           count, *scores.address, *indices.address);
    {
      const py::gil_scoped_release release;
      kernel(args);
    }
    return py::make_tuple(indices.tensor, scores.tensor);
  }

  // True for an int, exactly, that fits.
  static bool read_int(const py::object& object, int64_t& out) {
    if (!PyLong_CheckExact(object.ptr())) return false;
    int overflow = 0;
    out = PyLong_AsLongLongAndOverflow(object.ptr(), &overflow);
    return overflow == 0;
  }

  // False for what is no tensor of exactly these classes, or cannot be read.
  bool read(const py::object& object, ForeignTensor& out) const {
    return is_kind(object) && read_memory(object, out) && !is_negated(object);
  }

  bool is_kind(py::handle object) const {
    const auto* kind = reinterpret_cast<PyObject*>(Py_TYPE(object.ptr()));
    return kind == kind_.ptr() || kind == parameter_.ptr();
  }

  bool read_memory(py::handle object, ForeignTensor& out) const {
    if (interface_->read(object.ptr(), &out) == 0) return out.num_dims <= kMostDims;
    PyErr_Clear();
    return false;
  }

  // True where the values are those in memory with the other sign, which DLPack does not say.
  bool is_negated(const py::object& tensor) const {
    PyObject* const args[] = {tensor.ptr()};
    PyObject* said = PyObject_Vectorcall(is_negated_.ptr(), args, 1, nullptr);
    if (!said) throw py::error_already_set();
    return !py::reinterpret_steal<py::object>(said).is(py::bool_(false));
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

  // True if the values of each row, in the last dimension, lie one after another.
  static bool has_float_rows(const ForeignTensor& tensor, uint8_t bits) {
    const int32_t last = tensor.num_dims - 1;
    return tensor.device_type == kProcessor && tensor.type_code == kFloat && tensor.lanes == 1 &&
           tensor.bits == bits && (tensor.strides[last] == 1 || tensor.shape[last] <= 1) &&
           (tensor.data || count_of(tensor) == 0);
  }

  static bool are_finite(const ForeignTensor& matrix) {
    constexpr uint32_t kExponent = 0x7f800000;  // all ones in what is not finite
    uint32_t odd = 0;
    for (int64_t r = 0; r < matrix.shape[0]; ++r) {
      const auto* row = at<const float>(address_of(matrix)) + r * matrix.strides[0];
      for (int64_t d = 0; d < matrix.shape[1]; ++d) {
        uint32_t bits;
        std::memcpy(&bits, row + d, sizeof(bits));
        odd |= (bits & kExponent) == kExponent;
      }
    }
    return odd == 0;
  }

  static bool has_shape_of(const ForeignTensor& one, const ForeignTensor& other) {
    bool same = one.num_dims == other.num_dims;
    for (int32_t d = 0; same && d < one.num_dims; ++d) same = one.shape[d] == other.shape[d];
    return same;
  }

  static bool are_alike(const ForeignTensor& one, const ForeignTensor& other) {
    return one.bits == other.bits && has_shape_of(one, other);
  }

  Made make(const py::object& maker, uint8_t type_code, uint8_t bits, const int64_t* sizes,
            int32_t num_sizes) const {
    std::array<py::object, kMostDims + 1> objects;
    std::array<PyObject*, kMostDims + 1> args;
    const auto count = static_cast<size_t>(num_sizes);
    for (size_t d = 0; d < count; ++d) {
      objects[d] = py::int_(sizes[d]);
      args[d] = objects[d].ptr();
    }
    PyObject* tensor = PyObject_Vectorcall(maker.ptr(), args.data(), count, nullptr);
    if (!tensor) throw py::error_already_set();
    Made made{py::reinterpret_steal<py::object>(tensor), {}};
    ForeignTensor out;
    if (read_memory(made.tensor, out) && is_adjacent(out) && out.type_code == type_code &&
        out.bits == bits) {
      made.address = address_of(out);
    }
    return made;
  }

  py::object is_negated_;  // the method of the class
  py::object kind_, parameter_, new_floats_, new_ints_;
  py::object offered_;  // keeps the functions
  py::object version_;  // the name of a tensor's count of changes
  const ForeignInterface* interface_;
};

}  // namespace peel
