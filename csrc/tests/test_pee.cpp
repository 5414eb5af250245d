#include <stdexcept>
#include <string>
#include <vector>

#include "check.h"
#include "device/pee.h"
#include "kernels/gathered_score.h"
#include "kernels/grouped_lookup.h"
#include "packed.h"

namespace {

const std::vector<float> kCentroids = packed::telling_centroids();

// Opens, and when that works uses everything the bytes promise.
bool opens(const uint8_t* data, uint64_t size) {
  peel::PackedTable table;
  try {
    table = peel::open_pee(data, size, kCentroids.data());
  } catch (const std::invalid_argument&) {
    return false;
  }
  const int64_t dim = table.geometry.dim;
  if (dim > 4096 || table.num_embeddings > 4096) return true;
  std::vector<int64_t> ids(table.num_embeddings);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int64_t>(i);
  std::vector<float> rows(ids.size() * dim);
  const peel::LookupPairs<int64_t> pairs{table.num_embeddings, ids.data(), nullptr, 0};
  CHECK(peel::grouped_lookup(table, pairs, rows.data()).status == peel::LookupStatus::kOk);
  const std::vector<float> users(2 * dim, 0.5f);
  std::vector<float> scores(2 * 3);
  std::vector<int64_t> best(2 * 3);
  peel::ScoreArgs args;
  args.users = users.data();
  args.num_users = 2;
  args.user_stride = dim;
  args.n = 3;
  args.scores = scores.data();
  args.indices = best.data();
  peel::gathered_score(table, args);
  for (const int64_t id : best) CHECK(id >= -1 && id < table.num_embeddings);
  return true;
}

void survives_truncation_and_flips(const packed::Bytes& whole) {
  CHECK(opens(whole.data(), whole.size));
  for (uint64_t size = 0; size < whole.size; ++size) {
    const std::vector<uint64_t> cut(whole.words.begin(), whole.words.begin() + (size + 7) / 8);
    CHECK(!opens(reinterpret_cast<const uint8_t*>(cut.data()), size));
  }
  for (uint64_t bit = 0; bit < whole.size * 8; ++bit) {
    packed::Bytes flipped = whole;
    flipped.data()[bit / 8] ^= static_cast<uint8_t>(1u << bit % 8);
    opens(flipped.data(), flipped.size);  // a right table or an error, never a crash
  }
}

void decodes_known_rows() {
  std::mt19937_64 random(1);
  packed::Bytes bytes = packed::planes_table(random);
  uint8_t* pool = bytes.data() + 64 + 32;
  // Row 1 of the 3 of item group 0 (id 7): byte e of planes 0 and 1 at 16 + 3 e + 1, of plane 2 at
  // 32 + 3 e + 1.
  const uint8_t high[4] = {0b00000101, 1, 0b00000110, 0};
  for (int e = 0; e < 4; ++e) pool[16 + 3 * e + 1] = high[e];
  const uint8_t low[2] = {0b00000100, 1};
  for (int e = 0; e < 2; ++e) pool[32 + 3 * e + 1] = low[e];
  const peel::PackedTable table = peel::open_pee(bytes.data(), bytes.size, kCentroids.data());
  const int32_t id = 7;
  float row[9];
  const peel::LookupPairs<int32_t> pairs{1, &id, nullptr, 0};
  CHECK(peel::grouped_lookup(table, pairs, row).status == peel::LookupStatus::kOk);
  const float expected[9] = {3004, 3002, 3007, 3000, 3000, 3000, 3000, 3000, 3005};
  for (int d = 0; d < 9; ++d) CHECK(row[d] == 2 * expected[d]);
  const int32_t missing = 5;
  const peel::LookupPairs<int32_t> none{1, &missing, nullptr, 0};
  peel::grouped_lookup(table, none, row);
  for (int d = 0; d < 9; ++d) CHECK(row[d] == 0);
}

}  // namespace

int main() {
  std::mt19937_64 random = seeded();
  survives_truncation_and_flips(packed::planes_table(random));
  survives_truncation_and_flips(packed::columns_table(random));
  decodes_known_rows();
  const std::vector<uint64_t> zeros(100);
  CHECK(!opens(reinterpret_cast<const uint8_t*>(zeros.data()), 800));
}
