#include <vector>

#include "check.h"
#include "core/executor.h"
#include "kernels/grouped_lookup.h"

namespace {

using peel::LookupPairs;
using peel::LookupStatus;

struct Dense {
  std::vector<float> weight, refinement;
  std::vector<int32_t> slot;
  peel::StoreTable table;

  Dense(std::mt19937_64& random, int64_t rows, int64_t dim, int64_t groups) {
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < rows * dim; ++i) weight.push_back(normal(random));
    for (int64_t i = 0; i < 2 * dim; ++i) refinement.push_back(normal(random));
    slot.assign(groups * rows, -1);
    slot[(groups - 1) * rows] = 1;
    table.geometry.dim = dim;
    table.num_embeddings = rows;
    table.num_groups = groups;
    table.weight = weight.data();
    table.weight_stride = dim;
    table.refinement = refinement.data();
    table.refinement_slot = slot.data();
    table.num_refined = 2;
  }
};

void reads_dense_rows(std::mt19937_64& random) {
  const int64_t dim = 5;
  Dense dense(random, 4, dim, 2);
  const std::vector<int64_t> indices{0, 3, 0, 0}, groups{1, 1, 0, 1};
  std::vector<float> out(4 * dim);
  const LookupPairs<int64_t> pairs{4, indices.data(), groups.data(), 0};
  CHECK(peel::grouped_lookup(dense.table, pairs, out.data()).status == LookupStatus::kOk);
  for (int64_t d = 0; d < dim; ++d) {
    CHECK(out[d] == dense.weight[d] + dense.refinement[dim + d]);
    CHECK(out[dim + d] == dense.weight[3 * dim + d]);
    CHECK(out[2 * dim + d] == dense.weight[d]);
    CHECK(out[3 * dim + d] == out[d]);
  }
}

void names_what_is_out_of_range(std::mt19937_64& random) {
  Dense dense(random, 4, 3, 2);
  std::vector<float> out(30);
  std::vector<int32_t> indices{0, 1, 4}, groups{0, 1, 2};
  LookupPairs<int32_t> pairs{3, indices.data(), groups.data(), 0};
  auto result = peel::grouped_lookup(dense.table, pairs, out.data());
  CHECK(result.status == LookupStatus::kBadIndex && result.position == 2);
  indices[2] = 3;
  result = peel::grouped_lookup(dense.table, pairs, out.data());
  CHECK(result.status == LookupStatus::kBadGroup && result.position == 2);
  groups[2] = 0;
  dense.slot[1 * 4 + 1] = 2;
  result = peel::grouped_lookup(dense.table, pairs, out.data());
  CHECK(result.status == LookupStatus::kBadSlot && result.position == 1);
  const LookupPairs<int32_t> scalar{2, indices.data(), nullptr, -1};
  CHECK(peel::grouped_lookup(dense.table, scalar, out.data()).status == LookupStatus::kBadGroup);
}

// An encoded table is checked while it is read, in chunks and by all threads.
void names_what_an_encoded_table_does_not_have(std::mt19937_64& random) {
  const int64_t rows = 2000, dim = 4;
  Dense dense(random, rows, dim, 1);
  peel::StoreTable& table = dense.table;
  table.geometry.layout = peel::Layout::kColumns;
  table.geometry.value_type = peel::ValueType::kFloat32;
  table.geometry.block_dim = dim;
  table.geometry.num_layers = 1;
  std::vector<float> store(dense.weight);
  store.insert(store.end(), dense.refinement.begin(), dense.refinement.end());
  std::vector<int32_t> item_group(rows, 0);
  const std::vector<int64_t> held{1, 0};
  table.store = reinterpret_cast<const uint8_t*>(store.data());
  table.row_bytes = dim * 4;
  table.item_group = item_group.data();
  table.item_group_stride = rows;
  table.held = held.data();
  table.num_item_groups = 2;
  std::vector<int32_t> indices(rows);
  for (int64_t m = 0; m < rows; ++m) indices[m] = static_cast<int32_t>(rows - 1 - m);
  const LookupPairs<int32_t> pairs{rows, indices.data(), nullptr, 0};
  std::vector<float> out(rows * dim);
  dense.slot.assign(rows, -1);
  for (const int threads : {1, 2, 7}) {
    peel::set_num_threads(threads);
    dense.slot[499] = item_group[498] = -5;  // no refined row, nothing held
    item_group[497] = 1;                     // not held
    dense.slot[496] = 1;
    auto result = peel::grouped_lookup(table, pairs, out.data());
    CHECK(result.status == LookupStatus::kOk);
    for (int64_t d = 0; d < dim; ++d) {
      CHECK(out[1500 * dim + d] == store[499 * dim + d]);
      CHECK(out[1501 * dim + d] == 0 && out[1502 * dim + d] == 0);
      CHECK(out[1503 * dim + d] == store[(rows + 1) * dim + d]);
    }
    for (const int64_t at : {1999, 1500, 3}) {
      dense.slot[rows - 1 - at] = 2;
      result = peel::grouped_lookup(table, pairs, out.data());
      CHECK(result.status == LookupStatus::kBadSlot && result.position == at);
      dense.slot[rows - 1 - at] = -1;
      item_group[rows - 1 - at] = 2;
      result = peel::grouped_lookup(table, pairs, out.data());
      CHECK(result.status == LookupStatus::kBadItemGroup && result.position == at);
      item_group[rows - 1 - at] = 0;
    }
  }
}

void sums_duplicates_in_order(std::mt19937_64& random) {
  const int64_t dim = 3, count = 2000, rows = 7;
  Dense dense(random, rows, dim, 1);
  std::vector<int64_t> indices(count), targets(count);
  std::vector<float> grad_out(count * dim);
  std::normal_distribution<float> normal;
  for (int64_t m = 0; m < count; ++m) {
    indices[m] = static_cast<int64_t>(random() % rows);
    targets[m] = indices[m] == 2 ? -1 : indices[m];
  }
  for (auto& value : grad_out) value = normal(random);
  std::vector<float> expected(rows * dim);
  for (int64_t m = 0; m < count; ++m) {
    for (int64_t d = 0; d < dim && targets[m] >= 0; ++d) {
      expected[targets[m] * dim + d] += grad_out[m * dim + d];
    }
  }
  const LookupPairs<int64_t> pairs{count, indices.data(), nullptr, 0};
  for (const int threads : {1, 2, 7}) {
    peel::set_num_threads(threads);
    std::vector<float> grad(rows * dim);
    peel::grouped_lookup_backward(dense.table, pairs, grad_out.data(), targets.data(), rows, false,
                                  grad.data());
    CHECK(grad == expected);
  }
}

}  // namespace

int main() {
  std::mt19937_64 random = seeded();
  reads_dense_rows(random);
  names_what_is_out_of_range(random);
  names_what_an_encoded_table_does_not_have(random);
  sums_duplicates_in_order(random);
}
