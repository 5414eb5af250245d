// The device's part of the module. Python has checked shapes; what is hostile is checked natively.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include <cstring>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/arguments.h"
#include "core/packed_rows.h"
#include "device/appendix.h"
#include "device/bundle.h"
#include "device/errors.h"
#include "device/fold_in.h"
#include "device/levels.h"
#include "device/peel_file.h"
#include "device/recommender.h"
#include "device/similar.h"
#include "kernels/gathered_score.h"
#include "kernels/grouped_lookup.h"

namespace peel {

namespace py = pybind11;
// A Python buffer in place; the object stays alive as long as this.
class BufferSource : public Source {
 public:
  explicit BufferSource(const py::buffer& buffer)
      : info_(std::make_unique<py::buffer_info>(buffer.request())) {
    py::ssize_t bytes = info_->itemsize;
    for (py::ssize_t axis = info_->ndim; axis-- > 0;) {
      if (info_->shape[axis] > 1 && info_->strides[axis] != bytes) {
        throw std::invalid_argument("buffer must be contiguous");
      }
      bytes *= info_->shape[axis];
    }
    size_ = static_cast<uint64_t>(bytes);
    data_ = static_cast<const uint8_t*>(info_->ptr);
  }
  ~BufferSource() override {
    const py::gil_scoped_acquire gil;
    info_.reset();
  }
  BufferSource(const BufferSource&) = delete;
  BufferSource& operator=(const BufferSource&) = delete;
  uint64_t size() const override { return size_; }
  void read(uint64_t offset, uint64_t count, uint8_t* into) const override {
    if (count) std::memcpy(into, data_ + offset, count);
  }
  const uint8_t* in_place() const override { return data_; }

 private:
  std::unique_ptr<py::buffer_info> info_;
  const uint8_t* data_ = nullptr;
  uint64_t size_ = 0;
};

// A Python callable read(offset, count) -> bytes.
class CallableSource : public Source {
 public:
  CallableSource(py::function read, uint64_t size) : read_(std::move(read)), size_(size) {}
  ~CallableSource() override {
    const py::gil_scoped_acquire gil;
    read_ = py::function();
  }
  CallableSource(const CallableSource&) = delete;
  CallableSource& operator=(const CallableSource&) = delete;
  uint64_t size() const override { return size_; }
  void read(uint64_t offset, uint64_t count, uint8_t* into) const override {
    if (count == 0) return;
    const py::gil_scoped_acquire gil;
    const py::buffer_info got = py::cast<py::buffer>(read_(offset, count)).request();
    if (static_cast<uint64_t>(got.size * got.itemsize) != count) {
      throw SourceError("the source gave " + std::to_string(got.size * got.itemsize) +
                        " bytes at byte " + std::to_string(offset) + ", expected " +
                        std::to_string(count));
    }
    std::memcpy(into, got.ptr, count);
  }

 private:
  py::function read_;
  uint64_t size_;
};

// What is held at one moment.
class Pee {
 public:
  explicit Pee(std::shared_ptr<const PeelFile> file) : file_(std::move(file)) {
    snapshot_ = file_->snapshot();
  }

  const PackedTable& table() const { return snapshot_->table(); }
  int64_t dim() const { return table().geometry.dim; }
  int64_t num_embeddings() const { return table().num_embeddings; }
  uint64_t nbytes() const { return snapshot_->nbytes(); }
  uint64_t prefix_bytes() const { return snapshot_->prefix_bytes(); }
  uint32_t num_blocks() const { return snapshot_->num_blocks(); }

  // Ids of the rows with at least one block held, in the order of the file.
  bool rows_by_worth() const { return table().row_ids == RowIds::kInBlocks; }

  std::vector<int64_t> row_ids() const {
    std::vector<int64_t> ids;
    int64_t begin = 0;
    for (int64_t c = 0; c < table().num_item_groups; ++c) {
      const DirectoryEntry& entry = table().directory[c];
      const int64_t rows = entry.row_end - begin;
      begin = entry.row_end;
      for (int64_t r = 0; r < rows && entry.layers; ++r) {
        ids.push_back(packed_row_id(table(), c, packed_base(table(), c), r));
      }
    }
    return ids;
  }

  // What a copy in other memory is made of: layout, value type, dim, block_dim and the bits of the
  // layers; num_embeddings, num_rows, num_item_groups, the kind of row ids and their bytes; then
  // the directory, the offsets of the blocks held, listed ids, and the bytes of the prefix.
  using GeometryParts = std::tuple<int, int, int64_t, int64_t, std::vector<int>>;
  using Sizes = std::tuple<int64_t, int64_t, int64_t, int, int32_t>;
  std::tuple<GeometryParts, Sizes, py::bytes, py::bytes, py::bytes, py::bytes> parts() const {
    const PackedTable& packed = table();
    const Geometry& geometry = packed.geometry;
    std::vector<int> layer_bits;
    if (geometry.layout == Layout::kPlanes) {
      layer_bits.assign(geometry.layer_bits, geometry.layer_bits + geometry.num_layers);
    }
    const auto bytes = [](const void* begin, uint64_t count) {
      return py::bytes(static_cast<const char*>(begin), count);
    };
    const bool listed = packed.row_ids == RowIds::kListed;
    return {{static_cast<int>(geometry.layout), static_cast<int>(geometry.value_type), geometry.dim,
             geometry.block_dim, layer_bits},
            {packed.num_embeddings, packed.num_rows, packed.num_item_groups,
             static_cast<int>(packed.row_ids), packed.id_bytes},
            bytes(packed.directory, packed.num_item_groups * sizeof(DirectoryEntry)),
            bytes(packed.block_offsets, num_blocks() * sizeof(uint32_t)),
            bytes(packed.listed_ids, listed ? packed.num_rows * packed.id_bytes : 0),
            bytes(packed.bytes, prefix_bytes())};
  }

  std::pair<int, int64_t> lookup(int64_t count, Address indices, Address out) const {
    const py::gil_scoped_release release;
    const LookupResult result =
        grouped_lookup(table(), LookupPairs<int64_t>{count, at<const int64_t>(indices), nullptr, 0},
                       at<float>(out));
    return {static_cast<int>(result.status), result.position};
  }

  void score(Address users, int64_t num_users, int64_t user_stride, Address exclude_indptr,
             Address exclude, int64_t n, Address scores, Address indices) const {
    const py::gil_scoped_release release;
    gathered_score(table(), ScoreArgs{at<const float>(users), num_users, user_stride,
                                      at<const int64_t>(exclude_indptr), at<const int64_t>(exclude),
                                      n, at<float>(scores), at<int64_t>(indices)});
  }

  void score_items(Address user, int64_t count, Address ids, Address scores) const {
    const py::gil_scoped_release release;
    peel::score_items(*snapshot_, at<const float>(user), at<const int64_t>(ids), count,
                      at<float>(scores));
  }

  int64_t similar(int64_t count, Address items, int64_t n, Address ids, Address scores) const {
    const py::gil_scoped_release release;
    return similar_rows(table(), file_->header().fold_in.prior > 0, at<const int64_t>(items), count,
                        n, at<int64_t>(ids), at<float>(scores));
  }

  int64_t fold_in(int64_t count, Address history, Address user) const {
    const py::gil_scoped_release release;
    return peel::fold_in(table(), at<const int64_t>(history), count, file_->header().fold_in,
                         at<float>(user));
  }

  void average_user(Address user) const {
    const py::gil_scoped_release release;
    peel::average_user(table(), file_->header().fold_in, at<float>(user));
  }

  int64_t continue_vector(int64_t known_count, int64_t count, Address items, Address user) const {
    const py::gil_scoped_release release;
    return peel::continue_vector(table(), known_count, at<const int64_t>(items), count,
                                 file_->header().fold_in, at<float>(user));
  }

 private:
  std::shared_ptr<const PeelFile> file_;
  std::shared_ptr<const Snapshot> snapshot_;
};

uint64_t budget_of(const std::optional<uint64_t>& budget_bytes) {
  return budget_bytes.value_or(kNoBudget);
}

// With a user, its file in the bundle that the source is.
template <typename MakeSource>
std::shared_ptr<PeelFile> open_file(const std::optional<uint64_t>& budget_bytes,
                                    const std::optional<std::string>& user,
                                    MakeSource&& make_source) {
  std::shared_ptr<const Source> source = make_source();
  const py::gil_scoped_release release;
  if (user) source = std::make_shared<UserSource>(source, find_user(*source, *user), 0);
  return std::make_shared<PeelFile>(source, budget_of(budget_bytes));
}

// Count, width and payload of what lies behind the blocks.
std::tuple<uint64_t, uint32_t, py::bytes> section(const PeelFile& file, uint32_t kind) {
  const Section found = file.appendix().read(static_cast<SectionKind>(kind));
  return {found.count, found.width,
          py::bytes(reinterpret_cast<const char*>(found.payload.data()), found.payload.size())};
}

// Begin, bytes, count and width of a section; its payload is not looked at.
std::tuple<uint64_t, uint64_t, uint64_t, uint32_t> section_place(const PeelFile& file,
                                                                 uint32_t kind) {
  const SectionPlace place = file.appendix().find(static_cast<SectionKind>(kind));
  return {place.begin, place.bytes, place.count, place.width};
}

// Any bytes of the file, held or not.
py::bytes read_bytes(const PeelFile& file, uint64_t offset, uint64_t count) {
  const std::shared_ptr<const Source> source = file.source();
  if (offset > source->size() || count > source->size() - offset) {
    throw SourceError("the file has " + std::to_string(source->size()) + " bytes, and none from " +
                      std::to_string(offset) + " to " + std::to_string(offset + count));
  }
  std::vector<uint8_t> bytes(count);
  source->read(offset, count, bytes.data());
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// Offset, bytes, end of the blocks and checksum of the header of a user's file in a bundle.
std::tuple<uint64_t, uint64_t, uint64_t, uint32_t> find_user_by(
    const py::typing::Callable<py::bytes(uint64_t, uint64_t)>& read, uint64_t size,
    const std::string& user) {
  const UserFile file = find_user(CallableSource(read, size), user);
  return {file.offset, file.size, file.blocks_end, file.header_checksum};
}

// Native errors as those of peel_ext.errors.
void translate_errors(std::exception_ptr thrown) {
  const auto raise = [](const char* name, const py::tuple& arguments) {
    const py::object type = py::module_::import("peel_ext.errors").attr(name);
    PyErr_SetObject(type.ptr(), type(*arguments).ptr());
  };
  try {
    std::rethrow_exception(std::move(thrown));
  } catch (const BudgetError& error) {
    raise("BudgetError", py::make_tuple(error.what(), error.minimum_bytes));
  } catch (const FormatError& error) {
    raise("FormatError", py::make_tuple(error.what()));
  } catch (const SourceError& error) {
    raise("SourceError", py::make_tuple(error.what()));
  } catch (const ClosedError& error) {
    raise("ClosedError", py::make_tuple(error.what()));
  } catch (const NoUserError& error) {
    raise("NoUserError", py::make_tuple(error.what()));
  }
}

std::vector<float> level_list() { return {levels(), levels() + 510}; }

void bind_device(py::module_& m) {
  py::register_exception_translator(&translate_errors);
  m.def("levels", &level_list);
  m.def("find_user", &find_user_by, py::arg("read"), py::arg("size"), py::arg("user"));
  py::class_<Pee>(m, "Pee")
      .def_property_readonly("dim", &Pee::dim)
      .def_property_readonly("num_embeddings", &Pee::num_embeddings)
      .def_property_readonly("nbytes", &Pee::nbytes)
      .def_property_readonly("prefix_bytes", &Pee::prefix_bytes)
      .def_property_readonly("num_blocks", &Pee::num_blocks)
      .def_property_readonly("rows_by_worth", &Pee::rows_by_worth)
      .def("row_ids", &Pee::row_ids)
      .def("parts", &Pee::parts)
      .def("lookup", &Pee::lookup, py::arg("count"), py::arg("indices"), py::arg("out"))
      .def("score", &Pee::score, py::arg("users"), py::arg("num_users"), py::arg("user_stride"),
           py::arg("exclude_indptr"), py::arg("exclude"), py::arg("n"), py::arg("scores"),
           py::arg("indices"))
      .def("score_items", &Pee::score_items, py::arg("user"), py::arg("count"), py::arg("ids"),
           py::arg("scores"))
      .def("similar", &Pee::similar, py::arg("count"), py::arg("items"), py::arg("n"),
           py::arg("ids"), py::arg("scores"))
      .def("fold_in", &Pee::fold_in, py::arg("count"), py::arg("history"), py::arg("user"))
      .def("average_user", &Pee::average_user, py::arg("user"))
      .def("continue_vector", &Pee::continue_vector, py::arg("known_count"), py::arg("count"),
           py::arg("items"), py::arg("user"));
  py::class_<PeelFile, std::shared_ptr<PeelFile>>(m, "PeelFile")
      .def_static(
          "open_buffer",
          [](const py::buffer& buffer, std::optional<uint64_t> budget_bytes,
             const std::optional<std::string>& user) {
            return open_file(budget_bytes, user,
                             [&] { return std::make_shared<BufferSource>(buffer); });
          },
          py::arg("buffer"), py::arg("budget_bytes") = py::none(), py::arg("user") = py::none())
      .def_static(
          "open_path",
          [](const std::string& path, std::optional<uint64_t> budget_bytes,
             const std::optional<std::string>& user) {
            return open_file(budget_bytes, user,
                             [&] { return std::make_shared<FileSource>(path); });
          },
          py::arg("path"), py::arg("budget_bytes") = py::none(), py::arg("user") = py::none())
      .def_static(
          "open_callable",
          [](const py::typing::Callable<py::bytes(uint64_t, uint64_t)>& read, uint64_t size,
             std::optional<uint64_t> budget_bytes) {
            return open_file(budget_bytes, std::nullopt,
                             [&] { return std::make_shared<CallableSource>(read, size); });
          },
          py::arg("read"), py::arg("size"), py::arg("budget_bytes") = py::none())
      .def("pee",
           [](const std::shared_ptr<PeelFile>& file) {
             return Pee(std::shared_ptr<const PeelFile>(file));
           })
      .def(
          "resize",
          [](PeelFile& file, std::optional<uint64_t> budget_bytes) {
            const py::gil_scoped_release release;
            file.resize(budget_of(budget_bytes));
          },
          py::arg("budget_bytes"))
      .def("close", &PeelFile::close)
      .def("section", &section, py::arg("kind"))
      .def("find_section", &section_place, py::arg("kind"))
      .def("read", &read_bytes, py::arg("offset"), py::arg("count"))
      .def(
          "choose_group",
          [](const PeelFile& file, Address user) {
            return file.appendix().choose_group(at<const float>(user));
          },
          py::arg("user"))
      .def("own_centroid", [](const PeelFile& file) { return file.appendix().own_centroid(); })
      .def_property_readonly("num_blocks",
                             [](const PeelFile& file) { return file.header().num_blocks; })
      .def_property_readonly("group", [](const PeelFile& file) { return file.header().group; })
      .def_property_readonly("rotated", [](const PeelFile& file) { return file.header().rotated; });
}

}  // namespace peel
