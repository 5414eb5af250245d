// The lookups of a CUDA device give the bits of those of the CPU.
#include <vector>

#include "check.h"
#include "kernels/grouped_lookup.h"
#include "packed_tables.h"

namespace {

using namespace peel;

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

// The tables of two user groups, some rows refined in one of them.
struct RandomStore {
  std::vector<float> weight, refinement, levels, rotation;
  std::vector<int32_t> slot, item_group;
  std::vector<uint8_t> store;
  std::vector<uint16_t> scales;
  std::vector<int64_t> held;
  StoreTable table;

  RandomStore(std::mt19937_64& random, const Geometry& geometry, int64_t rows, bool rotated) {
    constexpr int64_t kGroups = 2, kItemGroups = 5, kRefined = 3;
    const int64_t dim = geometry.dim;
    table.geometry = geometry;
    table.num_embeddings = rows;
    table.num_groups = kGroups;
    table.weight_stride = dim + static_cast<int64_t>(random() % 2) * 4;
    table.num_refined = kRefined;
    weight = random_floats(random, rows * table.weight_stride);
    refinement = random_floats(random, kRefined * dim);
    levels = random_floats(random, 510);
    if (rotated) rotation = random_floats(random, dim * dim);
    for (int64_t i = 0; i < kGroups * rows; ++i) {
      slot.push_back(random() % 3 ? -1 : static_cast<int32_t>(random() % kRefined));
      item_group.push_back(static_cast<int32_t>(random() % (kItemGroups + 1)) - 1);
    }
    table.item_group_stride = random() % 2 ? rows : 0;
    table.num_item_groups = kItemGroups;
    for (int64_t i = 0; i < kGroups * kItemGroups && geometry.layout != Layout::kDense; ++i) {
      held.push_back(static_cast<int64_t>(random() % 4 ? random_layers(random, geometry) : 0));
    }
    if (geometry.layout == Layout::kPlanes) {
      table.row_bytes = kMaxBits * geometry.plane_bytes();
      store = random_values(random, ValueType::kInt8, (rows + kRefined) * table.row_bytes);
      table.scales_per_row = 1;
    } else if (geometry.layout == Layout::kColumns) {
      table.row_bytes = dim * geometry.value_bytes();
      store = random_values(random, geometry.value_type, (rows + kRefined) * dim);
      table.scales_per_row = geometry.num_layers;
    }
    for (int64_t i = 0; i < (rows + kRefined) * table.scales_per_row; ++i) {
      scales.push_back(random_half(random));
    }
    point(*this, table);
  }

  template <typename Arrays>
  static void point(Arrays& arrays, StoreTable& table) {
    table.weight = arrays.weight.data();
    table.refinement = arrays.refinement.data();
    table.refinement_slot = arrays.slot.data();
    table.store = arrays.store.data();
    table.scales = arrays.scales.data();
    table.item_group = arrays.item_group.data();
    table.held = arrays.held.data();
    table.levels = arrays.levels.data();
    if (table.geometry.layout == Layout::kDense) return;
    table.rotation = nullptr;
    if (arrays.has_rotation()) table.rotation = arrays.rotation.data();
  }
  bool has_rotation() const { return !rotation.empty(); }
};

struct DeviceStore {
  DeviceArray<float> weight, refinement, levels, rotation;
  DeviceArray<int32_t> slot, item_group;
  DeviceArray<uint8_t> store;
  DeviceArray<uint16_t> scales;
  DeviceArray<int64_t> held;
  StoreTable table;

  explicit DeviceStore(const RandomStore& from)
      : weight(from.weight),
        refinement(from.refinement),
        levels(from.levels),
        rotation(from.rotation),
        slot(from.slot),
        item_group(from.item_group),
        store(from.store),
        scales(from.scales),
        held(from.held),
        table(from.table),
        rotated_(from.has_rotation()) {
    RandomStore::point(*this, table);
  }
  bool has_rotation() const { return rotated_; }

 private:
  bool rotated_;
};

template <typename Index>
struct Pairs {
  std::vector<Index> indices, groups;

  Pairs(std::mt19937_64& random, int64_t count, int64_t rows) {
    for (int64_t m = 0; m < count; ++m) {
      indices.push_back(static_cast<Index>(random() % static_cast<uint64_t>(rows)));
      groups.push_back(static_cast<Index>(random() % 2));
    }
  }
  LookupPairs<Index> host() const {
    return {static_cast<int64_t>(indices.size()), indices.data(), groups.data(), 0};
  }
};

template <typename Index>
struct DevicePairs {
  DeviceArray<Index> indices, groups;
  int64_t count;

  explicit DevicePairs(const Pairs<Index>& from)
      : indices(from.indices),
        groups(from.groups),
        count(static_cast<int64_t>(from.indices.size())) {}
  LookupPairs<Index> pairs() { return {count, indices.data(), groups.data(), 0}; }
};

template <typename Index>
void looks_up(std::mt19937_64& random, const RandomStore& store, int64_t count, int64_t unaligned) {
  const int64_t dim = store.table.geometry.dim;
  const Pairs<Index> pairs(random, count, store.table.num_embeddings);
  std::vector<float> want(static_cast<size_t>(count * dim));
  CHECK(grouped_lookup(store.table, pairs.host(), want.data()).status == LookupStatus::kOk);
  DeviceStore on_device(store);
  DevicePairs<Index> device_pairs(pairs);
  DeviceArray<float> out(count * dim + unaligned, 7.0f);
  const auto offenders = run_on_device(
      cuda::grouped_lookup_workspace(on_device.table, device_pairs.pairs()),
      [&](const cuda::Launch& launch) {
        cuda::grouped_lookup(on_device.table, device_pairs.pairs(), out.data() + unaligned, launch);
      });
  CHECK(offenders == kNoOffenders);
  std::vector<float> got = out.read();
  got.erase(got.begin(), got.begin() + unaligned);
  CHECK(same_bits(got, want));
}

template <typename Index>
void sums_gradients(std::mt19937_64& random, const RandomStore& store, int64_t count, bool mean) {
  const int64_t dim = store.table.geometry.dim;
  const int64_t num_targets = 6;
  const Pairs<Index> pairs(random, count, store.table.num_embeddings);
  const std::vector<float> grad_out = random_floats(random, count * dim);
  std::vector<int64_t> targets;  // most of them one, so that its run is long
  for (int64_t m = 0; m < count; ++m) {
    targets.push_back(random() % 2 ? 3 : static_cast<int64_t>(random() % 7) - 1);
  }
  std::vector<float> want(static_cast<size_t>(num_targets * dim));
  grouped_lookup_backward(store.table, pairs.host(), grad_out.data(), targets.data(), num_targets,
                          mean, want.data());
  DeviceStore on_device(store);
  DevicePairs<Index> device_pairs(pairs);
  DeviceArray<float> device_grad_out(grad_out), grad(num_targets * dim);
  DeviceArray<int64_t> device_targets(targets);
  const auto offenders = run_on_device(
      cuda::grouped_lookup_backward_workspace(on_device.table, device_pairs.pairs(), num_targets),
      [&](const cuda::Launch& launch) {
        cuda::grouped_lookup_backward(on_device.table, device_pairs.pairs(), device_grad_out.data(),
                                      device_targets.data(), num_targets, mean, grad.data(),
                                      launch);
      });
  CHECK(offenders == kNoOffenders);
  CHECK(same_bits(grad.read(), want));
}

Geometry dense(int64_t dim) {
  Geometry geometry;
  geometry.dim = dim;
  return geometry;
}

std::vector<Geometry> geometries(std::mt19937_64& random, int64_t dim) {
  std::vector<Geometry> all{dense(dim), planes(dim, {2, 1, 1, 2, 2}), planes(dim, {1, 2}),
                            planes(dim, {8})};
  const int64_t least = (dim + kMaxLayers - 1) / kMaxLayers;
  for (const auto type : {ValueType::kFloat32, ValueType::kFloat16, ValueType::kInt8}) {
    all.push_back(columns(type, dim, least + static_cast<int64_t>(random() % dim)));
    if (dim % 8 == 0 && dim <= 256) all.push_back(columns(type, dim, 4));
  }
  return all;
}

void agrees_with_the_cpu(std::mt19937_64& random, int64_t dim) {
  for (const Geometry& geometry : geometries(random, dim)) {
    const RandomStore plain(random, geometry, 11, false), turned(random, geometry, 11, true);
    for (const int64_t count : {int64_t{0}, int64_t{1}, static_cast<int64_t>(random() % 70)}) {
      looks_up<int32_t>(random, plain, count, 0);
      looks_up<int64_t>(random, plain, count, 1);
      if (geometry.layout != Layout::kDense) looks_up<int64_t>(random, turned, count, 0);
      sums_gradients<int32_t>(random, plain, count, random() % 2 == 0);
    }
  }
}

// More pairs than the device has warps: a warp then looks up several.
void agrees_on_many_pairs(std::mt19937_64& random) {
  for (const int64_t dim : {1, 4, 20}) {
    for (const Geometry& geometry : geometries(random, dim)) {
      const RandomStore store(random, geometry, 33, false);
      if (dim == 4) looks_up<int64_t>(random, store, 8200, 0);
      sums_gradients<int64_t>(random, store, 1000, true);
      sums_gradients<int64_t>(random, store, 258, false);
    }
  }
}

void packed_agrees_with_the_cpu(std::mt19937_64& random, int64_t dim) {
  for_packed_tables(random, dim, [&](const RandomPackedTable& host) {
    DevicePackedTable on_device(host);
    std::vector<int64_t> indices;
    for (int64_t i = 0; i < 65; ++i) {
      indices.push_back(static_cast<int64_t>(random() % host.table.num_embeddings));
    }
    std::vector<float> want(indices.size() * static_cast<size_t>(dim));
    const auto count = static_cast<int64_t>(indices.size());
    grouped_lookup(host.table, LookupPairs<int64_t>{count, indices.data(), nullptr, 0},
                   want.data());
    DeviceArray<int64_t> device_indices(indices);
    DeviceArray<float> out(count * dim);
    const LookupPairs<int64_t> pairs{count, device_indices.data(), nullptr, 0};
    const auto offenders = run_on_device(
        cuda::grouped_lookup_workspace(on_device.table, pairs), [&](const cuda::Launch& launch) {
          cuda::grouped_lookup(on_device.table, pairs, out.data(), launch);
        });
    CHECK(offenders == kNoOffenders);
    CHECK(same_bits(out.read(), want));
  });
}

// Rows of offenders are NaN and all others what they are without them.
void names_offenders(std::mt19937_64& random, const Geometry& geometry, bool rotated) {
  const int64_t dim = geometry.dim, rows = 40, count = 100;
  RandomStore store(random, geometry, rows, rotated);
  store.table.item_group_stride = rows;
  const bool blocks = geometry.layout != Layout::kDense;
  Pairs<int64_t> pairs(random, count, rows - 2);
  std::vector<float> want(static_cast<size_t>(count * dim));
  grouped_lookup(store.table, pairs.host(), want.data());
  store.slot[rows + 39] = 3;
  store.item_group[38] = 5;
  std::vector<int64_t> bad{5, 6, 31, 32, 33, 70, 99};
  pairs.indices[31] = -1;
  pairs.indices[99] = rows;
  pairs.groups[6] = int64_t{1} << 40;
  pairs.groups[33] = -1;
  pairs.indices[5] = pairs.indices[70] = 39;
  pairs.groups[5] = pairs.groups[70] = 1;
  if (blocks) {
    store.slot[38] = -1;
    pairs.indices[32] = 38;
    pairs.groups[32] = 0;
  } else {
    bad.erase(bad.begin() + 3);
  }
  for (const int64_t m : bad) {
    for (int64_t d = 0; d < dim; ++d) want[m * dim + d] = std::nanf("");
  }
  std::vector<uint64_t> named = kNoOffenders;
  named[cuda::kIndices] = offender(31, -1);
  named[cuda::kGroups] = offender(6, INT32_MAX);
  named[cuda::kRefinementSlot] = offender(5, 3);
  if (blocks) named[cuda::kItemGroup] = offender(32, 5);
  DeviceStore on_device(store);
  DevicePairs<int64_t> device_pairs(pairs);
  DeviceArray<float> out(count * dim);
  CHECK(run_on_device(0, [&](const cuda::Launch& launch) {
          cuda::grouped_lookup(on_device.table, device_pairs.pairs(), out.data(), launch);
        }) == named);
  CHECK(same_bits(out.read(), want));
  // No gradient comes from an offender.
  const std::vector<float> grad_out = random_floats(random, count * dim);
  std::vector<int64_t> targets(count, 1);
  DeviceArray<float> device_grad_out(grad_out), grad(2 * dim), without(2 * dim);
  const auto add = [&](DeviceArray<float>& to) {
    DeviceArray<int64_t> device_targets(targets);
    return run_on_device(
        cuda::grouped_lookup_backward_workspace(on_device.table, device_pairs.pairs(), 2),
        [&](const cuda::Launch& launch) {
          cuda::grouped_lookup_backward(on_device.table, device_pairs.pairs(),
                                        device_grad_out.data(), device_targets.data(), 2, false,
                                        to.data(), launch);
        });
  };
  CHECK(add(grad) == named);
  for (const int64_t m : bad) targets[m] = -1;
  CHECK(add(without) == named);
  CHECK(same_bits(grad.read(), without.read()));
  targets.assign(count, 1);
  targets[0] = 2;  // beyond the gradient, which is no target
  CHECK(add(without) == named);
}

}  // namespace

int main() {
  std::mt19937_64 random = seeded();
  std::vector<int64_t> dims{1, 2, 8, 31, 33, 64, 130, 700};
  for (int i = 0; i < 4; ++i) dims.push_back(1 + static_cast<int64_t>(random() % 130));
  for (const int64_t dim : dims) {
    agrees_with_the_cpu(random, dim);
    packed_agrees_with_the_cpu(random, dim);
  }
  agrees_on_many_pairs(random);
  for (const int64_t dim : {1, 8, 33}) {
    for (const Geometry& geometry : geometries(random, dim)) {
      names_offenders(random, geometry, false);
      if (geometry.layout != Layout::kDense) names_offenders(random, geometry, true);
    }
  }
}
