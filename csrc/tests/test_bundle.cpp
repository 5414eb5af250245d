#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "bundles.h"
#include "check.h"
#include "device/peel.h"
#include "use_bundle.h"

namespace {

using files::blocks_of_user;
using files::Bytes;

// What reads bytes has no threads for their sanitizer to watch, and an emulator is slow.
#if defined(PEEL_EMULATED) || defined(__SANITIZE_THREAD__)
constexpr int kRounds = 500;
#else
constexpr int kRounds = 5000;
#endif

std::string hex(const std::array<uint8_t, 32>& digest) {
  std::string text;
  char two[3];
  for (const uint8_t byte : digest) {
    std::snprintf(two, sizeof(two), "%02x", byte);
    text += two;
  }
  return text;
}

void digests_are_those_of_the_standard() {
  CHECK(hex(peel::sha256("abc")) ==
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(hex(peel::sha256("")) ==
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(hex(peel::sha256("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq")) ==
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
}

void every_user_is_found(const std::vector<std::pair<std::string, Bytes>>& users) {
  for (const uint32_t num_pages : {1u, 2u, 7u}) {
    const Bytes bundle = files::bundle_file(users, num_pages);
    const auto source = std::make_shared<peel::MemorySource>(bundle.data(), bundle.size());
    for (const auto& [user, file] : users) {
      const peel::UserFile found = peel::find_user(*source, user);
      CHECK(found.size == file.size());
      CHECK(std::memcmp(bundle.data() + found.offset, file.data(), file.size()) == 0);
      CHECK(blocks_of_user(bundle.data(), bundle.size(), user) == 3);
    }
    CHECK(blocks_of_user(bundle.data(), bundle.size(), "nobody") == -1);
    CHECK_THROWS(peel::find_user(*source, ""));
  }
}

// Of the first user's file, and of what leads to it.
void any_flipped_bit_is_reported(const Bytes& whole, const std::string& user, uint64_t file_end) {
  for (uint64_t bit = 0; bit < file_end * 8; ++bit) {
    Bytes flipped = whole;
    flipped.data()[bit / 8] ^= static_cast<uint8_t>(1u << bit % 8);
    CHECK(blocks_of_user(flipped.data(), flipped.size(), user) == -1);
  }
}

void a_torn_bundle_has_what_has_arrived(const Bytes& whole, const std::string& user) {
  int most = -1;
  for (uint64_t size = 0; size <= whole.size(); ++size) {
    const Bytes torn = whole.cut(size);
    const int blocks = blocks_of_user(torn.data(), size, user);
    CHECK(blocks >= most);
    most = blocks;
  }
  CHECK(most == 3);
  Bytes longer = whole;
  longer.append("x", 1);
  CHECK(blocks_of_user(longer.data(), longer.size(), user) == -1);
}

// With right checksums, what the bytes say is what is left to be careful about.
void hostile_bytes_are_an_error_or_a_table(const Bytes& whole, const std::string& user,
                                           uint64_t index_end, std::mt19937_64& random) {
  int opened = 0;
  for (int round = 0; round < kRounds; ++round) {
    Bytes bytes = whole;
    for (uint64_t flips = 1 + random() % 3; flips > 0; --flips) {
      bytes.data()[4 + random() % (index_end - 4)] = static_cast<uint8_t>(random());
    }
    files::seal_bundle(bytes);
    opened += blocks_of_user(bytes.data(), bytes.size(), user) > 0;
  }
  CHECK(opened > 0);  // a flip of what the user does not need
}

void numbers_beyond_all_bounds_are_refused(const Bytes& whole, const std::string& user) {
  const auto refused = [&](uint64_t at, auto value) {
    Bytes bytes = whole;
    bytes.put(at, value);
    files::seal_bundle(bytes);
    CHECK(blocks_of_user(bytes.data(), bytes.size(), user) == -1);
  };
  constexpr uint64_t kAll = ~uint64_t{0};
  for (const uint64_t value : {uint64_t{0}, kAll, kAll - 63, uint64_t{1} << 32}) refused(8, value);
  for (const uint32_t value : {0u, 1u << 31, 0xffffffffu}) {
    refused(16, value);
    refused(20, value);
  }
  for (const uint64_t value : {uint64_t{0}, uint64_t{64}}) refused(24, value);
  const uint64_t entry = 64 + files::kPageHeaderBytes;
  for (const uint64_t value :
       {uint64_t{0}, uint64_t{64}, kAll - 63, whole.size(), uint64_t{1} << 63}) {
    refused(entry + 16, value);
  }
  for (const uint64_t value : {uint64_t{0}, uint64_t{63}, kAll, kAll - 511, uint64_t{1} << 63}) {
    refused(entry + 24, value);
  }
  for (const uint32_t value : {0u, 0xffffffffu, 0x04000000u}) refused(entry + 32, value);
}

// ---- the C interface ----

struct Reads {
  const Bytes* bytes;
  std::vector<std::pair<uint64_t, uint64_t>> ranges;
};

int read_and_note(void* context, uint64_t offset, uint64_t count, void* into) {
  auto* reads = static_cast<Reads*>(context);
  CHECK(offset + count <= reads->bytes->size());
  std::memcpy(into, reads->bytes->data() + offset, count);
  reads->ranges.emplace_back(offset, count);
  return 0;
}

// One for the first bytes, one for a page of the index that is not in them, and one for the file.
void a_user_takes_few_reads(const Bytes& bundle, const std::string& user, size_t count) {
  for (const uint64_t budget : {PEEL_NO_BUDGET, uint64_t{350}}) {
    Reads reads{&bundle, {}};
    const peel_source source{&read_and_note, nullptr, &reads, bundle.size()};
    peel_recommender* recommender = nullptr;
    CHECK(peel_open_user_in_source(&source, user.c_str(), budget, &recommender, nullptr) ==
          PEEL_OK);
    CHECK(reads.ranges.size() == count);
    CHECK(reads.ranges[0] == std::make_pair(uint64_t{0}, std::min<uint64_t>(bundle.size(), 8192)));
    CHECK(count == 2 || reads.ranges[1].second == 128);
    CHECK(reads.ranges.back().second <= budget);
    const uint64_t begin = reads.ranges.back().first;
    peel_info info;
    CHECK(peel_get_info(recommender, &info, nullptr) == PEEL_OK);
    CHECK((info.num_blocks == 3) == (budget == PEEL_NO_BUDGET));
    CHECK(peel_resize(recommender, PEEL_NO_BUDGET, nullptr) == PEEL_OK);
    peel_close(recommender);
    peel_user_file found;
    CHECK(peel_find_user(&source, user.c_str(), &found, nullptr) == PEEL_OK);
    CHECK(found.offset == begin && found.size >= found.blocks_end);
    uint32_t told[2];
    std::memcpy(&told[0], bundle.data() + found.offset + 44, 4);
    std::memcpy(&told[1], bundle.data() + found.offset + 60, 4);
    CHECK(found.blocks_end == uint64_t{64} * told[0] && found.header_checksum == told[1]);
    found.size = 77;
    CHECK(peel_find_user(&source, "nobody", &found, nullptr) == PEEL_ERROR_NO_USER);
    CHECK(peel_find_user(&source, user.c_str(), nullptr, nullptr) == PEEL_ERROR_ARGUMENT);
    CHECK(found.size == 77);
  }
}

void mistakes_are_named(const Bytes& bundle, const Bytes& single, const std::string& user) {
  const std::string path = "test_bundle.peelb";
  const auto write = [&](const Bytes& bytes) {
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
  };
  write(bundle);
  peel_error error;
  peel_recommender* recommender = nullptr;
  const auto open = [&](const char* whose) {
    return peel_open_user(path.c_str(), whose, PEEL_NO_BUDGET, &recommender, &error);
  };
  CHECK(open(user.c_str()) == PEEL_OK);
  peel_close(recommender);
  recommender = nullptr;
  CHECK(open("nobody") == PEEL_ERROR_NO_USER);
  CHECK(std::string(error.message) == "the bundle has no file of user 'nobody'");
  CHECK(open("") == PEEL_ERROR_ARGUMENT);
  CHECK(open(nullptr) == PEEL_ERROR_ARGUMENT);
  CHECK(peel_open_user(nullptr, "1", 0, &recommender, &error) == PEEL_ERROR_ARGUMENT);
  CHECK(peel_open_user_in_source(nullptr, "1", 0, &recommender, &error) == PEEL_ERROR_ARGUMENT);
  CHECK(peel_open_user(path.c_str(), user.c_str(), 1, &recommender, &error) == PEEL_ERROR_BUDGET);
  CHECK(error.minimum_bytes > 1);
  CHECK(peel_open_file(path.c_str(), PEEL_NO_BUDGET, &recommender, &error) == PEEL_ERROR_FORMAT);
  CHECK(std::string(error.message) ==
        "not a .peel file but a bundle of many: open it with the id of a user");
  write(single);
  CHECK(open(user.c_str()) == PEEL_ERROR_FORMAT);
  CHECK(std::string(error.message) ==
        "not a bundle of users' files: it does not begin with 'PEEB'");
  std::remove(path.c_str());
  CHECK(open(user.c_str()) == PEEL_ERROR_SOURCE);
  CHECK(recommender == nullptr);
}

}  // namespace

int main() {
  std::mt19937_64 random = seeded();
  const Bytes planes = files::planes_file(random);
  const Bytes columns = files::columns_file(random);
  std::vector<std::pair<std::string, Bytes>> users;
  for (int user = 0; user < 9; ++user) {
    users.emplace_back(std::to_string(user), user % 2 ? planes : columns);
  }
  digests_are_those_of_the_standard();
  every_user_is_found(users);
  const Bytes one = files::bundle_file({{"ann", planes}});
  constexpr uint64_t kIndexEnd = 64 + 128;
  any_flipped_bit_is_reported(one, "ann", one.size());
  const Bytes two = files::bundle_file({{"ann", planes}, {"bob", columns}});
  a_torn_bundle_has_what_has_arrived(two, "ann");
  a_torn_bundle_has_what_has_arrived(two, "bob");
  hostile_bytes_are_an_error_or_a_table(two, "ann", kIndexEnd, random);
  numbers_beyond_all_bounds_are_refused(one, "ann");
  a_user_takes_few_reads(two, "bob", 2);
  a_user_takes_few_reads(two, "ann", 2);
  const Bytes large = files::bundle_file({{"ann", planes}, {"bob", columns}}, 200);
  a_user_takes_few_reads(large, "bob", 3);
  a_user_takes_few_reads(large, "ann", 2);
  mistakes_are_named(two, planes, "ann");
}
