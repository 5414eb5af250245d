// The best rows that a CUDA device finds are those of the CPU.
#include <cmath>
#include <limits>
#include <vector>

#include "check.h"
#include "kernels/gathered_score.h"
#include "packed_tables.h"

namespace {

using namespace peel;

struct Best {
  std::vector<int64_t> indices;
  std::vector<float> scores;

  explicit Best(int64_t count)
      : indices(static_cast<size_t>(count)), scores(static_cast<size_t>(count)) {}
};

// Users and what each does not want.
struct Users {
  int64_t count, dim, stride;
  std::vector<float> vectors;
  std::vector<int64_t> indptr{0}, exclude;

  Users(std::mt19937_64& random, int64_t count_, int64_t dim_, int64_t num_embeddings, bool whole)
      : count(count_), dim(dim_), stride(dim_ + static_cast<int64_t>(random() % 3)) {
    vectors = random_floats(random, count * stride);
    // Whole numbers below 3: ties abound, and sums are exact in any order.
    for (float& value : vectors) {
      if (whole) value = static_cast<float>(static_cast<int>(random() % 5) - 2);
    }
    for (int64_t u = 0; u < count; ++u) {
      for (int64_t id = 0; id < num_embeddings && u % 3; ++id) {
        if (random() % 4 == 0) exclude.push_back(id);
      }
      indptr.push_back(static_cast<int64_t>(exclude.size()));
    }
    exclude.push_back(0);  // never an empty address
  }
  ScoreArgs args(int64_t n, Best& best) const {
    return {vectors.data(),     count, stride, indptr.data(), exclude.data(), n, best.scores.data(),
            best.indices.data()};
  }
};

template <typename Rows, typename DeviceTable>
std::vector<uint64_t> score_on_device(const Rows& rows, DeviceTable&, const Users& users, int64_t n,
                                      Best& best) {
  DeviceArray<float> vectors(users.vectors), scores(users.count * n, 7.0f);
  DeviceArray<int64_t> indptr(users.indptr), exclude(users.exclude), indices(users.count * n, 7);
  const ScoreArgs args{vectors.data(), users.count, users.stride,  indptr.data(),
                       exclude.data(), n,           scores.data(), indices.data()};
  auto offenders =
      run_on_device(cuda::gathered_score_workspace(rows, args),
                    [&](const cuda::Launch& launch) { cuda::gathered_score(rows, args, launch); });
  best.scores = scores.read();
  best.indices = indices.read();
  return offenders;
}

// The same ids, but where scores differ by no more than rounding; no id twice.
void check_alike(const Best& got, const Best& want, int64_t num_users, int64_t n, bool exact) {
  for (int64_t u = 0; u < num_users; ++u) {
    std::vector<int64_t> ids;
    for (int64_t i = u * n; i < (u + 1) * n; ++i) {
      const float a = got.scores[i], b = want.scores[i];
      CHECK((a == b) || (!exact && std::abs(a - b) <= 1e-5f * (1 + std::abs(b)) * 10));
      CHECK(!exact || got.indices[i] == want.indices[i]);
      CHECK((got.indices[i] == -1) == (want.indices[i] == -1));
      if (got.indices[i] >= 0) ids.push_back(got.indices[i]);
    }
    std::sort(ids.begin(), ids.end());
    CHECK(std::adjacent_find(ids.begin(), ids.end()) == ids.end());
  }
}

struct DenseTable {
  std::vector<float> weight;
  std::vector<int64_t> candidates;
  DenseRows rows;

  DenseTable(std::mt19937_64& random, int64_t count, int64_t dim, bool whole, bool some) {
    rows.num_embeddings = count;
    rows.dim = dim;
    rows.weight_stride = dim + static_cast<int64_t>(random() % 5);
    weight = random_floats(random, count * rows.weight_stride + 1);
    for (float& value : weight) {
      if (whole) value = static_cast<float>(static_cast<int>(random() % 5) - 2);
    }
    for (int64_t row = 0; row < count; ++row) {
      if (random() % 2) candidates.push_back(row);
    }
    rows.weight = weight.data();
    if (some) {
      rows.num_candidates = static_cast<int64_t>(candidates.size());
      candidates.push_back(0);
      rows.candidates = candidates.data();
    }
  }
};

struct DeviceDense {
  DeviceArray<float> weight;
  DeviceArray<int64_t> candidates;
  DenseRows rows;

  explicit DeviceDense(const DenseTable& from)
      : weight(from.weight), candidates(from.candidates), rows(from.rows) {
    rows.weight = weight.data();
    if (from.rows.candidates) rows.candidates = candidates.data();
  }
};

void dense_agrees(std::mt19937_64& random, int64_t num_users, int64_t count, int64_t dim, int64_t n,
                  bool whole) {
  const DenseTable table(random, count, dim, whole, random() % 2);
  const Users users(random, num_users, dim, count, whole);
  Best want(num_users * n), got(0);
  gathered_score(table.rows, users.args(n, want));
  DeviceDense on_device(table);
  CHECK(score_on_device(on_device.rows, on_device, users, n, got) == kNoOffenders);
  check_alike(got, want, num_users, n, whole);
}

void packed_agrees(std::mt19937_64& random, int64_t num_users, int64_t dim, int64_t n) {
  const bool slow = num_users > 64;  // tiles of as many users: a third of the tables will do
  for_packed_tables(random, dim, [&](const RandomPackedTable& host) {
    if (slow && random() % 3) return;
    const Users users(random, num_users, dim, host.table.num_embeddings, false);
    Best want(num_users * n), got(0);
    gathered_score(host.table, users.args(n, want));
    DevicePackedTable on_device(host);
    CHECK(score_on_device(on_device.table, on_device, users, n, got) == kNoOffenders);
    check_alike(got, want, num_users, n, false);
  });
}

// A score is the same alone, among a few and among many users.
void does_not_depend_on_others(std::mt19937_64& random) {
  const int64_t dim = 37, n = 9;
  const DenseTable table(random, 300, dim, false, false);
  DeviceDense on_device(table);
  Users users(random, 66, dim, 300, false);
  Best all(0);
  score_on_device(on_device.rows, on_device, users, n, all);
  for (const int64_t count : {1, 3, 20}) {
    Users few = users;
    few.count = count;
    Best some(0);
    score_on_device(on_device.rows, on_device, few, n, some);
    for (int64_t i = 0; i < count * n; ++i) {
      CHECK(some.indices[i] == all.indices[i] && some.scores[i] == all.scores[i]);
    }
  }
}

// Enough rows that floors rise, and bounds of scores in planes leave most rows out: a single user,
// whose rows are bounded, gets the same as one of many, whose are not.
void bounds_leave_nothing_out(std::mt19937_64& random, const std::vector<int32_t>& layer_bits) {
  const int64_t dim = 13 + static_cast<int64_t>(random() % 20), n = 6;
  const std::vector<int64_t> sizes{3000, 64, 2001, 4000};
  const RandomPackedTable host(random, planes(dim, layer_bits), sizes, RowIds::kInBlocks, 4);
  DevicePackedTable on_device(host);
  Users users(random, 9, dim, 0, false);
  Best want(9 * n), all(0);
  gathered_score(host.table, users.args(n, want));
  score_on_device(on_device.table, on_device, users, n, all);
  check_alike(all, want, 9, n, false);
  for (int64_t u = 0; u < 3; ++u) {
    Users one = users;
    one.count = 1;
    one.vectors.erase(one.vectors.begin(), one.vectors.begin() + u * users.stride);
    if (u == 2) one.vectors[3] = std::numeric_limits<float>::infinity();  // no bound
    Best own(n), got(0);
    gathered_score(host.table, one.args(n, own));
    score_on_device(on_device.table, on_device, one, n, got);
    check_alike(got, own, 1, n, false);
    for (int64_t i = 0; i < n && u < 2; ++i) {
      CHECK(got.indices[i] == all.indices[u * n + i] && got.scores[i] == all.scores[u * n + i]);
    }
  }
}

// Gives all rows in planes one and the same value.
void make_rows_alike(std::mt19937_64& random, RandomPackedTable& host) {
  const Geometry& geometry = host.table.geometry;
  std::vector<uint8_t> row(static_cast<size_t>(kMaxBits * geometry.plane_bytes()));
  for (uint8_t& byte : row) byte = static_cast<uint8_t>(random());
  int64_t first = 0;
  for (const DirectoryEntry& entry : host.directory) {
    const int64_t rows = entry.row_end - first;
    first = entry.row_end;
    uint32_t block = entry.first_block;
    size_t element = 0;
    for (int32_t layer = 0; layer < geometry.num_layers; ++layer) {
      if (!((entry.layers >> layer) & 1u)) continue;
      const BlockBytes at = block_bytes(geometry, host.table.id_bytes, rows, layer);
      uint8_t* begin = host.bytes.data() + kBlockAlignment * host.block_offsets[block++];
      for (int64_t r = 0; layer == 0 && r < rows; ++r) {
        begin[at.scales + 2 * r] = 0;
        begin[at.scales + 2 * r + 1] = 0x3c;  // 1
      }
      uint8_t* to = begin + at.pieces;
      for (int64_t tile = 0; tile < rows; tile += kPackedTileRows) {
        const int64_t width = std::min(kPackedTileRows, rows - tile);
        for (int64_t e = 0; e < at.piece_bytes; ++e, to += width) {
          std::memset(to, row[element + static_cast<size_t>(e)], static_cast<size_t>(width));
        }
      }
      element += static_cast<size_t>(at.piece_bytes);
    }
  }
}

// All scores are one, so that every row reaches every floor, and only the id decides: a bound that
// is too low by any rounding would leave out the least ids, which come last.
void bounds_keep_ties(std::mt19937_64& random, const std::vector<int32_t>& layer_bits) {
  const int64_t dim = 5 + static_cast<int64_t>(random() % 30), n = 4;
  RandomPackedTable host(random, planes(dim, layer_bits), {1024, 3000, 64}, RowIds::kInBlocks, 2);
  make_rows_alike(random, host);
  DevicePackedTable on_device(host);
  for (int user = 0; user < 4; ++user) {
    const Users one(random, 1, dim, 0, false);
    Best want(n), got(0);
    gathered_score(host.table, one.args(n, want));
    score_on_device(on_device.table, on_device, one, n, got);
    CHECK(got.indices == want.indices);
  }
}

void nan_is_never_returned() {
  std::mt19937_64 random(1);
  DenseTable table(random, 4, 1, false, false);
  table.rows.weight_stride = 1;
  const float infinity = std::numeric_limits<float>::infinity();
  table.weight = {1, std::nanf(""), -infinity, 2};
  for (const int64_t num_users : {1, 2, 40}) {
    DeviceDense on_device(table);
    Users users(random, num_users, 1, 4, false);
    users.vectors.assign(users.vectors.size(), 1.0f);
    users.indptr.assign(users.indptr.size(), 0);
    Best got(0);
    score_on_device(on_device.rows, on_device, users, 4, got);
    for (int64_t u = 0; u < num_users; ++u) {
      const std::vector<int64_t> ids(got.indices.begin() + 4 * u, got.indices.begin() + 4 * u + 4);
      CHECK(ids == (std::vector<int64_t>{3, 0, 2, -1}));
      CHECK(got.scores[4 * u + 3] == -infinity);
    }
  }
}

void names_candidates_that_are_not_there(std::mt19937_64& random) {
  DenseTable table(random, 50, 3, true, true);
  table.rows.num_candidates = 5;
  table.candidates = {-4, 2, 7, 30, 50};
  for (const int64_t num_users : {1, 7, 70}) {
    const Users users(random, num_users, 3, 50, true);
    DeviceDense on_device(table);
    Best got(0), want(num_users * 5);
    std::vector<uint64_t> named = kNoOffenders;
    named[cuda::kIndices] = offender(0, -4);
    CHECK(score_on_device(on_device.rows, on_device, users, 5, got) == named);
    DenseRows sound = table.rows;
    sound.candidates = table.candidates.data() + 1;
    sound.num_candidates = 3;
    gathered_score(sound, users.args(5, want));
    check_alike(got, want, num_users, 5, true);
  }
}

}  // namespace

int main() {
  std::mt19937_64 random = seeded();
  for (const int64_t num_users : {0, 1, 2, 5, 31}) {
    for (const int64_t count : {0, 1, 31, 32, 33, 65}) {
      const auto dim = static_cast<int64_t>(1 + random() % 130);
      dense_agrees(random, num_users, count, dim % 20 + 1, 10, true);
      if (count % 2) dense_agrees(random, num_users, count, dim, 10, false);
    }
    packed_agrees(random, num_users, 2 + static_cast<int64_t>(random() % 129),
                  1 + static_cast<int64_t>(random() % 40));
  }
  for (const int64_t dim : {1, 8, 64}) packed_agrees(random, 1, dim, 10);
  packed_agrees(random, 65, 9, 20);
  packed_agrees(random, 2, 700, 7);
  dense_agrees(random, 1, 5000, 3, 1000, true);
  dense_agrees(random, 3, 5000, 2, 5, true);
  dense_agrees(random, 70, 33, 35, 9, false);
  dense_agrees(random, 130, 1500, 4, 2, true);
  dense_agrees(random, 2, 100, 700, 200, false);
  dense_agrees(random, 40, 40, 700, 20, false);
  does_not_depend_on_others(random);
  bounds_leave_nothing_out(random, {2, 1, 1});
  bounds_leave_nothing_out(random, {3});
  bounds_leave_nothing_out(random, {1, 1, 6});
  for (const int32_t bits : {1, 2, 3, 4}) bounds_keep_ties(random, {bits});
  nan_is_never_returned();
  names_candidates_that_are_not_there(random);
}
