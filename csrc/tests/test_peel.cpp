#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <limits>
#include <numeric>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "core/executor.h"
#include "device/peel.h"
#include "files.h"
#include "use.h"

namespace {

using files::Bytes;

// What reads bytes has no threads for their sanitizer to watch, and an emulator is slow.
#if defined(PEEL_EMULATED) || defined(__SANITIZE_THREAD__)
constexpr int kRounds = 1000;
#else
constexpr int kRounds = 20000;
#endif

// ---- R1, R2, R3: hostile, damaged and torn bytes ----

void any_flipped_bit_is_reported(const Bytes& whole) {
  CHECK(files::opens(whole.data(), whole.size()));
  for (uint64_t bit = 0; bit < whole.size() * 8; ++bit) {
    Bytes flipped = whole;
    flipped.data()[bit / 8] ^= static_cast<uint8_t>(1u << bit % 8);
    CHECK(!files::opens(flipped.data(), flipped.size()));
  }
}

// `ends` are the ends of the blocks.
void a_torn_file_is_a_smaller_one(const Bytes& whole, const std::vector<uint64_t>& ends) {
  for (uint64_t size = 0; size <= whole.size(); ++size) {
    const Bytes torn = whole.cut(size);
    uint32_t blocks = 0;
    while (blocks < ends.size() && ends[blocks] <= size) ++blocks;
    CHECK(files::opens(torn.data(), size) == (blocks > 0));
    if (blocks == 0) continue;
    const peel::PeelFile small(std::make_shared<peel::MemorySource>(torn.data(), size),
                               peel::kNoBudget);
    CHECK(small.snapshot()->num_blocks() == blocks);
    CHECK(small.snapshot()->prefix_bytes() == ends[blocks - 1]);
  }
}

// With right checksums, what the bytes say is what is left to be careful about.
void hostile_bytes_are_an_error_or_a_table(const Bytes& whole, std::mt19937_64& random) {
  int opened = 0;
  for (int round = 0; round < kRounds; ++round) {
    Bytes bytes = whole;
    for (uint64_t flips = 1 + random() % 3; flips > 0; --flips) {
      bytes.data()[4 + random() % (whole.size() - 4)] = static_cast<uint8_t>(random());
    }
    files::seal(bytes);
    opened += files::opens(bytes.data(), bytes.size(), random() % 2 ? peel::kNoBudget : 500);
  }
  CHECK(opened > 0);
}

void counts_beyond_all_bounds_are_refused(const Bytes& whole) {
  for (const uint64_t at : {24, 28, 32, 44}) {
    for (const uint32_t value : {0u, 1u, 0x7fffffffu, 0xffffffffu}) {
      Bytes bytes = whole;
      bytes.put(at, value);
      files::seal(bytes);
      files::opens(bytes.data(), bytes.size());
      files::opens(bytes.data(), bytes.size(), 1000);
    }
  }
}

// ---- reading ----

void decodes_known_rows() {
  std::mt19937_64 random(1);
  Bytes bytes = files::planes_file(random);
  // Row 1 of the 3 of item group 0 (id 7): byte e of planes 0 and 1 in tiles of 3 rows.
  const uint8_t high[4] = {0b00000101, 1, 0b00000110, 0};
  for (int e = 0; e < 4; ++e) bytes.data()[128 + 16 + 3 * e + 1] = high[e];
  const uint8_t low[2] = {0b00000100, 1};
  for (int e = 0; e < 2; ++e) bytes.data()[256 + 3 * e + 1] = low[e];
  files::seal(bytes);
  const peel::PeelFile file(std::make_shared<peel::MemorySource>(bytes.data(), bytes.size()),
                            peel::kNoBudget);
  const auto snapshot = file.snapshot();
  const int64_t ids[2] = {7, 5};
  float rows[18];
  peel::grouped_lookup(snapshot->table(), peel::LookupPairs<int64_t>{2, ids, nullptr, 0}, rows);
  const float* levels = snapshot->table().levels + 6;  // of 3 bits
  const int codes[9] = {4, 2, 7, 0, 0, 0, 0, 0, 5};
  for (int d = 0; d < 9; ++d) CHECK(rows[d] == 2 * levels[codes[d]]);
  for (int d = 0; d < 9; ++d) CHECK(rows[9 + d] == 0);
}

// ---- similar items ----

double plain_cosine(const float* a, const float* b, int64_t dim) {
  double dot = 0, a_squares = 0, b_squares = 0;
  for (int64_t d = 0; d < dim; ++d) {
    dot += double{a[d]} * b[d];
    a_squares += double{a[d]} * a[d];
    b_squares += double{b[d]} * b[d];
  }
  return dot == 0 ? 0 : dot / std::sqrt(a_squares * b_squares);
}

// Checks the answer for one item against decoded rows [num, dim], of which those of `held` are
// held.
void check_similar(const peel_recommender* recommender, int64_t item, const std::set<int64_t>& held,
                   const std::vector<float>& rows, int64_t dim) {
  constexpr size_t kMost = 13;  // more than there are
  int64_t ids[kMost];
  float scores[kMost];
  std::fill_n(ids, kMost, -7);
  peel_error error;
  const peel_status status = peel_similar(recommender, item, kMost, ids, scores, &error);
  if (!held.count(item)) {
    CHECK(status == PEEL_ERROR_NOT_HELD && ids[0] == -7);
    CHECK(std::string(error.message) == "item " + std::to_string(item) + " is not held");
    return;
  }
  CHECK(status == PEEL_OK);
  std::set<int64_t> found;
  for (size_t i = 0; i < kMost; ++i) {
    if (i + 1 >= held.size()) {
      CHECK(ids[i] == -1 && scores[i] == -INFINITY);
      continue;
    }
    CHECK(held.count(ids[i]) && ids[i] != item && found.insert(ids[i]).second);
    const double cosine = plain_cosine(&rows[item * dim], &rows[ids[i] * dim], dim);
    CHECK(std::abs(scores[i] - cosine) < 1e-6);
    CHECK(i == 0 || scores[i - 1] > scores[i] ||
          (scores[i - 1] == scores[i] && ids[i - 1] < ids[i]));
  }
  int64_t best;
  float score;
  CHECK(peel_similar(recommender, item, 1, &best, &score, nullptr) == PEEL_OK);
  CHECK(best == ids[0] && score == scores[0]);
}

void similar_items_are_those_of_the_largest_cosine(const Bytes& whole) {
  for (uint64_t budget = 0; budget < whole.size() + 100; budget += 4) {
    peel_recommender* recommender = nullptr;
    if (peel_open_memory(whole.data(), whole.size(), budget, &recommender, nullptr)) continue;
    const peel::PeelFile file(std::make_shared<peel::MemorySource>(whole.data(), whole.size()),
                              budget);
    const peel::PackedTable& table = file.snapshot()->table();
    const int64_t dim = table.geometry.dim;
    const int64_t num = table.num_embeddings;
    std::vector<int64_t> ids(num);
    std::iota(ids.begin(), ids.end(), 0);
    std::vector<float> rows(num * dim);
    peel::grouped_lookup(table, peel::LookupPairs<int64_t>{num, ids.data(), nullptr, 0},
                         rows.data());
    std::vector<float> scores(num);
    CHECK(peel_score(recommender, rows.data(), nullptr, 0, num, ids.data(), scores.data(),
                     nullptr) == PEEL_OK);
    std::set<int64_t> held(ids.begin(), ids.end());
    held.erase(-1);
    for (int64_t item = 0; item < num; ++item) check_similar(recommender, item, held, rows, dim);
    peel_close(recommender);
  }
}

// ---- R4, R5: budgets, and reading only what is missing ----

struct Counted {
  const Bytes* bytes;
  std::vector<int> reads;  // of each byte
  bool fails = false;
  bool closed = false;
};

int read_counted(void* context, uint64_t offset, uint64_t count, void* into) {
  auto* counted = static_cast<Counted*>(context);
  if (counted->fails) return 1;
  std::memcpy(into, counted->bytes->data() + offset, count);
  for (uint64_t at = offset; at < offset + count; ++at) ++counted->reads[at];
  return 0;
}

void close_counted(void* context) { static_cast<Counted*>(context)->closed = true; }

peel_info info_of(const peel_recommender* recommender) {
  peel_info info;
  CHECK(peel_get_info(recommender, &info, nullptr) == PEEL_OK);
  return info;
}

void every_budget_is_kept_and_every_resize_is_an_opening(const Bytes& whole) {
  for (uint64_t budget = 0; budget < whole.size() + 100; ++budget) {
    peel_recommender* fresh = nullptr;
    peel_error error;
    const peel_status status = peel_open_memory(whole.data(), whole.size(), budget, &fresh, &error);
    Counted counted{&whole, std::vector<int>(whole.size())};
    const peel_source source{&read_counted, &close_counted, &counted, whole.size()};
    peel_recommender* resized = nullptr;
    CHECK(peel_open_source(&source, PEEL_NO_BUDGET, &resized, nullptr) == PEEL_OK);
    const peel_status resize = peel_resize(resized, budget, nullptr);
    CHECK(resize == status);
    if (status != PEEL_OK) {
      CHECK(status == PEEL_ERROR_BUDGET && error.minimum_bytes > budget);
      peel_recommender* least = nullptr;
      CHECK(peel_open_memory(whole.data(), whole.size(), error.minimum_bytes, &least, nullptr) ==
            PEEL_OK);
      CHECK(info_of(least).nbytes == error.minimum_bytes);
      peel_close(least);
    } else {
      CHECK(info_of(fresh).nbytes <= budget);
      CHECK(info_of(fresh).nbytes == info_of(resized).nbytes);
      CHECK(info_of(fresh).num_blocks == info_of(resized).num_blocks);
    }
    peel_close(fresh);
    CHECK(!counted.closed);
    peel_close(resized);
    CHECK(counted.closed);
  }
}

void growing_reads_what_is_missing(const Bytes& whole) {
  Counted counted{&whole, std::vector<int>(whole.size())};
  const peel_source source{&read_counted, nullptr, &counted, whole.size()};
  peel_recommender* recommender = nullptr;
  peel_error error;
  CHECK(peel_open_source(&source, 0, &recommender, &error) == PEEL_ERROR_BUDGET);
  counted.reads.assign(whole.size(), 0);
  CHECK(peel_open_source(&source, error.minimum_bytes, &recommender, nullptr) == PEEL_OK);
  const uint64_t held = info_of(recommender).prefix_bytes;
  uint64_t fetched = 0;
  for (uint64_t at = 64; at < whole.size(); ++at)
    fetched += static_cast<uint64_t>(counted.reads[at]);
  CHECK(fetched <= error.minimum_bytes);
  counted.reads.assign(whole.size(), 0);
  CHECK(peel_resize(recommender, PEEL_NO_BUDGET, nullptr) == PEEL_OK);
  for (uint64_t at = 0; at < whole.size(); ++at) CHECK(counted.reads[at] == (at >= held));
  counted.fails = true;
  CHECK(peel_resize(recommender, error.minimum_bytes, nullptr) == PEEL_OK);
  CHECK(info_of(recommender).prefix_bytes == held);
  CHECK(peel_resize(recommender, PEEL_NO_BUDGET, &error) == PEEL_ERROR_SOURCE);
  CHECK(info_of(recommender).prefix_bytes == held);  // what was held stays
  counted.fails = false;
  CHECK(peel_resize(recommender, PEEL_NO_BUDGET, nullptr) == PEEL_OK);
  peel_close(recommender);
}

// ---- R7: resizing while others score ----

void resizing_disturbs_nobody(const Bytes& whole) {
  Counted counted{&whole, std::vector<int>(whole.size())};
  const peel_source source{&read_counted, nullptr, &counted, whole.size()};
  peel_recommender* recommender = nullptr;
  CHECK(peel_open_source(&source, PEEL_NO_BUDGET, &recommender, nullptr) == PEEL_OK);
  const peel_info info = info_of(recommender);
  const std::vector<float> user(static_cast<size_t>(info.embedding_dim), 1.0f);
  const auto score = [&](std::vector<float>& scores) {
    int64_t ids[6];
    scores.resize(6);
    CHECK(peel_score(recommender, user.data(), nullptr, 0, 6, ids, scores.data(), nullptr) ==
          PEEL_OK);
  };
  // What each budget answers, with nobody else about.
  std::vector<std::vector<float>> legal;
  std::vector<uint64_t> budgets;
  for (uint64_t budget = 0; budget <= info.nbytes; budget += 4) {
    if (peel_resize(recommender, budget, nullptr) != PEEL_OK) continue;
    budgets.push_back(budget);
    legal.emplace_back();
    score(legal.back());
  }
  std::atomic<bool> done{false};
  std::vector<std::thread> readers;
  for (int t = 0; t < 3; ++t) {
    readers.emplace_back([&] {
      std::vector<float> scores;
      while (!done) {
        score(scores);
        bool known = false;
        for (const auto& answer : legal) known = known || answer == scores;
        CHECK(known);
      }
    });
  }
  std::mt19937_64 random(7);
  for (int round = 0; round < kRounds / 10; ++round) {
    CHECK(peel_resize(recommender, budgets[random() % budgets.size()], nullptr) == PEEL_OK);
  }
  done = true;
  for (std::thread& reader : readers) reader.join();
  peel_close(recommender);
}

// ---- the C interface ----

void a_path_is_utf8(const Bytes& whole) {
  const std::string name = "peel_test_\xc3\xa9\xe2\x98\x83";  // an accent and a snowman
  const auto path = std::filesystem::u8path(name);
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(whole.data()),
             static_cast<std::streamsize>(whole.size()));
  peel_error error;
  peel_recommender* recommender = nullptr;
  CHECK(peel_open_file(name.c_str(), PEEL_NO_BUDGET, &recommender, &error) == PEEL_OK);
  peel_close(recommender);
  std::filesystem::remove(path);
}

void a_file_on_disk(const Bytes& whole) {
  char path[] = "peel_test_XXXXXX";
  const int file = mkstemp(path);
  CHECK(file >= 0);
  CHECK(write(file, whole.data(), whole.size()) == static_cast<ssize_t>(whole.size()));
  peel_error error;
  peel_recommender* recommender = nullptr;
  CHECK(peel_open_file(path, PEEL_NO_BUDGET, &recommender, &error) == PEEL_OK);
  peel_recommender* other = nullptr;
  CHECK(peel_open_file(path, PEEL_NO_BUDGET, &other, &error) == PEEL_OK);
  CHECK(ftruncate(file, 64) == 0);  // nobody can pull away what is held
  const int64_t history[1] = {2};
  int64_t ids[3];
  float scores[3];
  CHECK(peel_recommend(recommender, history, 1, 3, ids, scores, &error) == PEEL_OK);
  CHECK(peel_resize(recommender, info_of(recommender).nbytes - 1, &error) == PEEL_OK);
  CHECK(peel_resize(recommender, PEEL_NO_BUDGET, &error) == PEEL_ERROR_SOURCE);
  CHECK(std::string(error.message).find("was shortened while in use") != std::string::npos);
  peel_close(recommender);
  peel_close(other);
  close(file);
  CHECK(unlink(path) == 0);
  CHECK(peel_open_file(path, PEEL_NO_BUDGET, &recommender, &error) == PEEL_ERROR_SOURCE);
  CHECK(peel_open_file(".", PEEL_NO_BUDGET, &recommender, &error) == PEEL_ERROR_SOURCE);
}

void files_say_whether_their_rows_are_rotated(const Bytes& planes, const Bytes& columns) {
  Bytes rotated = planes;
  rotated.put(5, uint8_t{4});
  files::seal(rotated);
  const Bytes* const files_made[2] = {&planes, &rotated};
  for (int says = 0; says < 2; ++says) {
    const Bytes& bytes = *files_made[says];
    peel_recommender* recommender = nullptr;
    CHECK(peel_open_memory(bytes.data(), bytes.size(), PEEL_NO_BUDGET, &recommender, nullptr) ==
          PEEL_OK);
    CHECK(info_of(recommender).rotated == says);
    peel_close(recommender);
  }
  rotated = columns;
  rotated.put(5, uint8_t{4});
  files::seal(rotated);
  CHECK(!files::opens(rotated.data(), rotated.size()));
}

peel_recommender* opened(const Bytes& bytes) {
  peel_recommender* recommender = nullptr;
  CHECK(peel_open_memory(bytes.data(), bytes.size(), PEEL_NO_BUDGET, &recommender, nullptr) ==
        PEEL_OK);
  return recommender;
}

void the_average_user_is_the_centroid(const Bytes& planes) {
  Bytes bytes = planes;
  bytes.put(36, uint32_t{1});  // the user group
  files::seal(bytes);
  float user[9] = {-7};
  peel_error error;
  peel_recommender* recommender = opened(bytes);
  int known = -1;
  int64_t ids[2][3];
  float scores[2][3];
  const auto recommends_for_it = [&] {
    CHECK(peel_recommend(recommender, nullptr, 0, 3, ids[0], scores[0], nullptr) == PEEL_OK);
    CHECK(peel_score(recommender, user, nullptr, 0, 3, ids[1], scores[1], nullptr) == PEEL_OK);
    for (int i = 0; i < 3; ++i) CHECK(ids[0][i] == ids[1][i] && scores[0][i] == scores[1][i]);
  };
  CHECK(peel_average_user(recommender, user, &known, &error) == PEEL_OK && known == 0);
  recommends_for_it();
  CHECK(peel_average_user(recommender, nullptr, &known, &error) == PEEL_ERROR_ARGUMENT);
  peel_close(recommender);
  std::vector<float> centroids(18);
  std::iota(centroids.begin(), centroids.end(), 0.0f);
  files::append_floats(bytes, 1, 2, 9, centroids);
  recommender = opened(bytes);
  CHECK(peel_average_user(recommender, user, &known, &error) == PEEL_OK && known == 1);
  for (int d = 0; d < 9; ++d) CHECK(user[d] == static_cast<float>(9 + d));
  recommends_for_it();
  peel_close(recommender);
}

void vectors_are_rotated_where_rows_are(const Bytes& planes) {
  Bytes bytes = planes;
  const float vector[9] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
  float rotated[9] = {-7};
  peel_error error;
  peel_recommender* recommender = opened(bytes);
  CHECK(peel_rotate(recommender, vector, rotated, &error) == PEEL_OK);
  CHECK(std::equal(vector, vector + 9, rotated));
  peel_close(recommender);
  bytes.put(5, uint8_t{4});
  files::seal(bytes);
  rotated[0] = -7;
  recommender = opened(bytes);
  CHECK(peel_rotate(recommender, vector, rotated, &error) == PEEL_ERROR_FORMAT);
  CHECK(rotated[0] == -7);
  peel_close(recommender);
  std::vector<float> turn(81);  // coordinate d becomes coordinate d + 1
  for (size_t d = 0; d < 9; ++d) turn[9 * d + (d + 1) % 9] = 1;
  Bytes whole = bytes;
  files::append_floats(whole, 3, 9, 9, turn);
  recommender = opened(whole);
  CHECK(peel_rotate(recommender, vector, rotated, &error) == PEEL_OK);
  for (int d = 0; d < 9; ++d) CHECK(rotated[(d + 1) % 9] == vector[d]);
  const float bad[9] = {NAN};
  CHECK(peel_rotate(recommender, bad, rotated, &error) == PEEL_ERROR_ARGUMENT);
  peel_close(recommender);
  files::append_floats(bytes, 3, 9, 8, std::vector<float>(72));
  recommender = opened(bytes);
  CHECK(peel_rotate(recommender, vector, rotated, &error) == PEEL_ERROR_FORMAT);
  peel_close(recommender);
}

void mistakes_are_named(const Bytes& whole) {
  peel_error error;
  peel_recommender* recommender = nullptr;
  CHECK(peel_open_memory(nullptr, 9, 9, &recommender, &error) == PEEL_ERROR_ARGUMENT);
  CHECK(peel_open_file(nullptr, 9, &recommender, &error) == PEEL_ERROR_ARGUMENT);
  CHECK(peel_open_source(nullptr, 9, &recommender, &error) == PEEL_ERROR_ARGUMENT);
  CHECK(peel_open_memory(whole.data(), whole.size(), PEEL_NO_BUDGET, nullptr, &error) ==
        PEEL_ERROR_ARGUMENT);
  CHECK(peel_open_memory(whole.data() + 1, whole.size() - 1, 0, &recommender, &error) ==
        PEEL_ERROR_FORMAT);
  CHECK(peel_get_info(nullptr, nullptr, &error) == PEEL_ERROR_ARGUMENT);
  peel_close(nullptr);
  CHECK(peel_open_memory(whole.data(), whole.size(), PEEL_NO_BUDGET, &recommender, &error) ==
        PEEL_OK);
  const peel_info info = info_of(recommender);
  std::vector<float> user(static_cast<size_t>(info.embedding_dim), 1.0f);
  int64_t ids[3] = {0, info.num_embeddings, 0};
  float scores[3];
  CHECK(peel_score(recommender, user.data(), ids, 2, 1, ids, scores, &error) ==
        PEEL_ERROR_ARGUMENT);
  CHECK(std::string(error.message) == "exclude[1] is " + std::to_string(info.num_embeddings) +
                                          ", expected an id in [0, " +
                                          std::to_string(info.num_embeddings) + ")");
  CHECK(peel_score(recommender, user.data(), nullptr, 0, 0, ids, scores, &error) ==
        PEEL_ERROR_ARGUMENT);
  CHECK(peel_score(recommender, nullptr, nullptr, 0, 1, ids, scores, &error) ==
        PEEL_ERROR_ARGUMENT);
  user[0] = INFINITY;
  CHECK(peel_score(recommender, user.data(), nullptr, 0, 1, ids, scores, &error) ==
        PEEL_ERROR_ARGUMENT);
  user[0] = 1;
  CHECK(peel_score(recommender, user.data(), nullptr, 0, 1, ids, scores, nullptr) == PEEL_OK);
  CHECK(peel_similar(nullptr, 0, 1, ids, scores, &error) == PEEL_ERROR_ARGUMENT);
  CHECK(peel_similar(recommender, 0, 1, nullptr, scores, &error) == PEEL_ERROR_ARGUMENT);
  CHECK(peel_similar(recommender, 0, 1, ids, nullptr, &error) == PEEL_ERROR_ARGUMENT);
  CHECK(peel_similar(recommender, 0, 0, ids, scores, &error) == PEEL_ERROR_ARGUMENT);
  CHECK(std::string(error.message) == "n must be at least 1, got 0");
  CHECK(peel_similar(recommender, -1, 1, ids, scores, &error) == PEEL_ERROR_ARGUMENT);
  CHECK(std::string(error.message) ==
        "item is -1, expected an id in [0, " + std::to_string(info.num_embeddings) + ")");
  int64_t group;
  CHECK(peel_choose_group(recommender, user.data(), &group, &error) == PEEL_ERROR_FORMAT);
  CHECK(peel_recommend(recommender, nullptr, 0, 1, ids, scores, nullptr) == PEEL_OK);
  CHECK(peel_recommend(recommender, nullptr, 0, 1, ids, scores, &error) == PEEL_OK);
  CHECK(error.status == PEEL_UNKNOWN_USER && ids[0] >= 0);
  CHECK(std::string(error.message).find("average user of what is held") != std::string::npos);
  CHECK(peel_recommend(recommender, ids, 1, 1, ids, scores, &error) == PEEL_OK);
  CHECK(error.status == PEEL_OK && error.message[0] == '\0');
  peel_close(recommender);
}

// ---- item ids ----

// A recommender of `whole` with ids behind its blocks.
struct WithItemIds {
  WithItemIds(Bytes whole, const std::vector<std::string>& ids, uint32_t integers) : bytes(whole) {
    files::append_item_ids(bytes, ids, integers);
    CHECK(peel_open_memory(bytes.data(), bytes.size(), PEEL_NO_BUDGET, &recommender, nullptr) ==
          PEEL_OK);
  }
  ~WithItemIds() { peel_close(recommender); }
  WithItemIds(const WithItemIds&) = delete;
  WithItemIds& operator=(const WithItemIds&) = delete;

  Bytes bytes;
  peel_recommender* recommender = nullptr;
  peel_error error;
};

void item_ids_are_found_both_ways(const Bytes& whole, const std::vector<std::string>& ids,
                                  uint32_t integers) {
  WithItemIds file(whole, ids, integers);
  peel_item_id_type type;
  CHECK(peel_get_item_id_type(file.recommender, &type, nullptr) == PEEL_OK);
  CHECK(type == (integers ? PEEL_INTEGER_ITEM_IDS : PEEL_TEXT_ITEM_IDS));
  std::vector<const char*> texts;
  for (const std::string& id : ids) texts.push_back(id.c_str());
  texts.push_back("no such id");
  texts.push_back("17");
  std::vector<int64_t> rows(texts.size());
  CHECK(peel_find_rows_by_text(file.recommender, texts.data(), texts.size(), rows.data(),
                               &file.error) == PEEL_OK);
  const auto count = static_cast<int64_t>(ids.size());
  for (int64_t row = 0; row < count; ++row) {
    CHECK(rows[row] == row);
    char text[64] = "?";
    size_t length = 0;
    CHECK(peel_get_item_text(file.recommender, row, nullptr, 0, &length, nullptr) == PEEL_OK);
    CHECK(length == ids[row].size());
    CHECK(peel_get_item_text(file.recommender, row, text, length, &length, nullptr) == PEEL_OK);
    CHECK(length == ids[row].size() && (length == 0 || text[0] == 0));
    CHECK(peel_get_item_text(file.recommender, row, text, length + 1, &length, nullptr) == PEEL_OK);
    CHECK(ids[row] == text);
  }
  CHECK(rows[count] == -1 && rows[count + 1] == -1);
  CHECK(peel_get_item_text(file.recommender, count, nullptr, 0, nullptr, &file.error) ==
        PEEL_ERROR_ARGUMENT);
  CHECK(std::string(file.error.message) == "id is " + std::to_string(count) +
                                               ", expected an id in [0, " + std::to_string(count) +
                                               ")");
}

void integer_item_ids_are_found_both_ways(const Bytes& whole, const std::vector<int64_t>& ids) {
  std::vector<std::string> names;
  for (const int64_t id : ids) names.push_back(std::to_string(id));
  item_ids_are_found_both_ways(whole, names, 1);
  WithItemIds file(whole, names, 1);
  std::vector<int64_t> rows(ids.size());
  CHECK(peel_find_rows(file.recommender, ids.data(), ids.size(), rows.data(), nullptr) == PEEL_OK);
  for (size_t row = 0; row < ids.size(); ++row) CHECK(rows[row] == static_cast<int64_t>(row));
  const int64_t unknown[3] = {ids[2], 17, std::numeric_limits<int64_t>::max()};
  CHECK(peel_find_rows(file.recommender, unknown, 3, rows.data(), nullptr) == PEEL_OK);
  CHECK(rows[0] == 2 && rows[1] == -1 && rows[2] == -1);
  const std::vector<int64_t> asked = {3, 0, 3};
  CHECK(peel_get_item_ids(file.recommender, asked.data(), 3, rows.data(), nullptr) == PEEL_OK);
  CHECK(rows[0] == ids[3] && rows[1] == ids[0] && rows[2] == ids[3]);
}

void item_ids_of_the_wrong_type_are_named(const Bytes& whole, std::vector<std::string> ids) {
  int64_t row = 5;
  {
    WithItemIds file(whole, ids, 0);
    CHECK(peel_find_rows(file.recommender, &row, 1, &row, &file.error) == PEEL_ERROR_ARGUMENT);
    CHECK(std::string(file.error.message) == "item ids of this file are text, expected integers");
    const char* nothing[2] = {"a", nullptr};
    CHECK(peel_find_rows_by_text(file.recommender, nothing, 2, &row, &file.error) ==
          PEEL_ERROR_ARGUMENT);
    CHECK(std::string(file.error.message) == "item_ids[1] must not be null");
  }
  ids[5] = "9223372036854775808";  // 2^63
  {
    WithItemIds file(whole, ids, 1);
    CHECK(peel_get_item_ids(file.recommender, &row, 1, &row, &file.error) == PEEL_ERROR_ARGUMENT);
    CHECK(row == 5);
  }
  for (const char* bad : {"", "-", "-0", "007", "1_0", "1x"}) {
    ids[5] = bad;
    WithItemIds file(whole, ids, 1);
    CHECK(peel_get_item_ids(file.recommender, &row, 1, &row, &file.error) == PEEL_ERROR_FORMAT);
    CHECK(row == 5);
  }
}

void damaged_item_ids_are_reported(const Bytes& whole, const std::vector<std::string>& ids) {
  const uint64_t begin = whole.size();
  Bytes sound = whole;
  files::append_item_ids(sound, ids, 0);
  const auto status_of = [](const Bytes& bytes, uint64_t size) {
    peel_recommender* recommender = nullptr;
    CHECK(peel_open_memory(bytes.data(), size, PEEL_NO_BUDGET, &recommender, nullptr) == PEEL_OK);
    size_t length;
    const peel_status status = peel_get_item_text(recommender, 1, nullptr, 0, &length, nullptr);
    peel_close(recommender);
    return status;
  };
  CHECK(status_of(sound, sound.size()) == PEEL_OK);
  for (uint64_t bit = begin * 8; bit < sound.size() * 8; ++bit) {
    Bytes flipped = sound;
    flipped.data()[bit / 8] ^= static_cast<uint8_t>(1u << bit % 8);
    CHECK(status_of(flipped, flipped.size()) == PEEL_ERROR_FORMAT);
  }
  for (uint64_t size = begin; size < sound.size(); ++size) {
    CHECK(status_of(sound, size) == PEEL_ERROR_FORMAT);
  }
  // Checksums are right, what the bytes say is not.
  const uint32_t checksum = peel::read_header(sound.data(), sound.size()).checksum;
  for (const auto& [at, value] : std::vector<std::pair<uint64_t, uint32_t>>{
           {64, 1}, {68, 1000}, {64 + 4 * ids.size(), 1}, {16, 3}, {8, 8}, {8, 1u << 31}}) {
    Bytes bytes = sound;
    bytes.put(begin + at, value);
    files::put_checksum(bytes, begin, begin + 4, bytes.size(), checksum);
    CHECK(status_of(bytes, bytes.size()) == PEEL_ERROR_FORMAT);
  }
}

void item_ids_of_files(const Bytes& planes) {
  integer_item_ids_are_found_both_ways(planes,
                                       {-200, -30, -3, 0, 1, 5, 9, 10, 100, 200, 1000, 2000});
  integer_item_ids_are_found_both_ways(
      planes, {5, std::numeric_limits<int64_t>::min(), -3, 1000, 0, 11, 12, 13, 2, 1, 90, 10});
  const std::vector<std::string> names = {"",  "a", "aa", "b", "c", "d",
                                          "e", "f", "g",  "h", "i", "\xc3\xa9t\xc3\xa9"};
  item_ids_are_found_both_ways(planes, names, 0);
  std::vector<std::string> mixed = names;
  std::reverse(mixed.begin(), mixed.end());
  item_ids_are_found_both_ways(planes, mixed, 0);
  item_ids_of_the_wrong_type_are_named(
      planes, {"0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11"});
  damaged_item_ids_are_reported(planes, names);
  peel_recommender* recommender = nullptr;
  CHECK(peel_open_memory(planes.data(), planes.size(), PEEL_NO_BUDGET, &recommender, nullptr) ==
        PEEL_OK);
  peel_item_id_type type;
  CHECK(peel_get_item_id_type(recommender, &type, nullptr) == PEEL_OK);
  CHECK(type == PEEL_NO_ITEM_IDS);
  int64_t row = 0;
  peel_error error;
  CHECK(peel_find_rows(recommender, &row, 1, &row, &error) == PEEL_ERROR_FORMAT);
  CHECK(std::string(error.message) == "this file has no item ids");
  peel_close(recommender);
}

// ---- shipped lists ----

void shipped_items_that_are_not_held_compete(const Bytes& whole) {
  peel_error error;
  peel_recommender* recommender = nullptr;
  CHECK(peel_open_memory(whole.data(), whole.size(), 0, &recommender, &error) != PEEL_OK);
  CHECK(peel_open_memory(whole.data(), whole.size(), error.minimum_bytes, &recommender, nullptr) ==
        PEEL_OK);
  const std::vector<float> user(static_cast<size_t>(info_of(recommender).embedding_dim), 1.0f);
  constexpr size_t kMost = 8;
  int64_t held[kMost];
  float own[kMost];
  CHECK(peel_score(recommender, user.data(), nullptr, 0, kMost, held, own, nullptr) == PEEL_OK);
  CHECK(held[2] == 9 || held[2] == 7 || held[2] == 4);  // of ids 4, 7 and 9
  CHECK(held[3] == -1);
  // 5 is as good as the best held, 0 is excluded, 1 is the worst; what is held keeps its own score.
  const int64_t shipped[4] = {0, 5, held[1], 1};
  const float scores[4] = {1000, own[0], 1000, -1000};
  const int64_t excluded[1] = {0};
  const auto score = [&](size_t count, size_t n, int64_t* ids, float* found) {
    return peel_score_with_shipped(recommender, user.data(), excluded, 1, shipped, scores, count, n,
                                   ids, found, &error);
  };
  int64_t ids[kMost];
  float found[kMost];
  CHECK(score(4, kMost, ids, found) == PEEL_OK);
  const int64_t first = std::min<int64_t>(5, held[0]), second = std::max<int64_t>(5, held[0]);
  const int64_t wanted[kMost] = {first, second, held[1], held[2], 1, -1, -1, -1};
  for (size_t i = 0; i < kMost; ++i) CHECK(ids[i] == wanted[i]);
  CHECK(found[0] == own[0] && found[1] == own[0] && found[2] == own[1] && found[4] == -1000);
  CHECK(score(4, 1, ids, found) == PEEL_OK);
  CHECK(ids[0] == first);
  CHECK(score(0, kMost, ids, found) == PEEL_OK);
  for (size_t i = 0; i < kMost; ++i) CHECK(ids[i] == held[i] && found[i] == own[i]);
  ids[0] = 77;
  const int64_t twice[2] = {3, 3};
  CHECK(peel_score_with_shipped(recommender, user.data(), nullptr, 0, twice, scores, 2, 1, ids,
                                found, &error) == PEEL_ERROR_ARGUMENT);
  CHECK(std::string(error.message) == "shipped must name an id once, got 3 twice");
  const float infinite[1] = {INFINITY};
  CHECK(peel_score_with_shipped(recommender, user.data(), nullptr, 0, twice, infinite, 1, 1, ids,
                                found, &error) == PEEL_ERROR_ARGUMENT);
  CHECK(peel_score_with_shipped(recommender, user.data(), nullptr, 0, nullptr, nullptr, 1, 1, ids,
                                found, &error) == PEEL_ERROR_ARGUMENT);
  CHECK(ids[0] == 77);
  peel_close(recommender);
}

// ---- the library ----

void the_library_tells_of_itself() {
  CHECK(std::string(peel_version()) == PEEL_VERSION);
  std::set<std::string> texts;
  for (int status = PEEL_OK; status <= PEEL_ERROR_NO_USER; ++status) {
    CHECK(texts.insert(peel_status_text(static_cast<peel_status>(status))).second);
  }
  CHECK(texts.insert(peel_status_text(static_cast<peel_status>(100))).second);
  peel_error error;
  CHECK(peel_set_num_threads(0, &error) == PEEL_ERROR_ARGUMENT);
  CHECK(std::string(error.message) == "num_threads must be between 1 and 1024, got 0");
  CHECK(peel_set_num_threads(3, &error) == PEEL_OK);
  CHECK(peel::num_threads() == 3);
}

}  // namespace

int main() {
  std::mt19937_64 random = seeded();
  const Bytes planes = files::planes_file(random);
  const Bytes columns = files::columns_file(random);
  a_torn_file_is_a_smaller_one(planes, {192, 256, 320});
  a_torn_file_is_a_smaller_one(columns, {256, 320, 384});
  for (const Bytes* whole : {&planes, &columns}) {
    any_flipped_bit_is_reported(*whole);
    hostile_bytes_are_an_error_or_a_table(*whole, random);
    counts_beyond_all_bounds_are_refused(*whole);
    every_budget_is_kept_and_every_resize_is_an_opening(*whole);
    growing_reads_what_is_missing(*whole);
    resizing_disturbs_nobody(*whole);
    similar_items_are_those_of_the_largest_cosine(*whole);
    mistakes_are_named(*whole);
  }
  Bytes zeros = planes;
  zeros.put(136, uint32_t{0});  // the scales of ids 4 and 7
  files::seal(zeros);
  similar_items_are_those_of_the_largest_cosine(zeros);
  files_say_whether_their_rows_are_rotated(planes, columns);
  item_ids_of_files(planes);
  shipped_items_that_are_not_held_compete(planes);
  the_library_tells_of_itself();
  the_average_user_is_the_centroid(planes);
  vectors_are_rotated_where_rows_are(planes);
  decodes_known_rows();
  a_path_is_utf8(planes);
  a_file_on_disk(planes);
  CHECK(!files::opens(Bytes(800).data(), 800));
}
