#include "device/bundle.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <mutex>
#include <stdexcept>
#include <utility>

#include "core/sizes.h"
#include "core/table.h"
#include "device/block_checks.h"
#include "device/checksum.h"
#include "device/errors.h"
#include "device/file_header.h"
#include "device/sha256.h"

namespace peel {
namespace {

constexpr char kMagic[4] = {'P', 'E', 'E', 'B'};
constexpr uint8_t kVersion = 1;
constexpr uint32_t kMostPageEntries = 1 << 16;  // so that a page is never large
constexpr size_t kKeyBytes = 16;
// Read at once: the header, and what is there of the index, as much as comes without a wait.
constexpr uint64_t kStartBytes = 8192;

// As they lie in the file, little endian.
struct BundleHeader {
  char magic[4];
  uint8_t version;
  uint8_t reserved[3];
  uint64_t num_users;
  uint32_t num_pages;
  uint32_t page_entries;
  uint64_t size;  // of the whole bundle
  uint32_t content;
  uint8_t more_reserved[24];
  uint32_t checksum;
};
static_assert(sizeof(BundleHeader) == kHeaderBytes, "the header is read in place");

struct PageHeader {
  uint32_t checksum;
  uint32_t num_entries;
  uint32_t number;
  uint8_t reserved[20];
};

struct Entry {
  uint8_t key[kKeyBytes];
  uint64_t offset;
  uint64_t size;
  uint32_t blocks_end;  // in kBlockAlignment
  uint32_t header_checksum;
};
static_assert(sizeof(PageHeader) == 32 && sizeof(Entry) == 40, "a page is read in place");

void require(bool condition, const char* what) {
  if (!condition) throw FormatError(std::string("not a valid bundle: ") + what);
}

[[noreturn]] void throw_cut_short(uint64_t size) {
  throw FormatError("cut short: " + std::to_string(size) +
                    " bytes, the bundle's index is not all there");
}

uint64_t page_bytes(const BundleHeader& header) {
  const uint64_t bytes = sizeof(PageHeader) + uint64_t{sizeof(Entry)} * header.page_entries;
  return (bytes + kBlockAlignment - 1) / kBlockAlignment * kBlockAlignment;
}

uint64_t index_end(const BundleHeader& header) {
  return kHeaderBytes + header.num_pages * page_bytes(header);
}

// The header of a bundle of `size` bytes, of which `start` are the first.
BundleHeader parse_bundle_header(const std::vector<uint8_t>& start, uint64_t size) {
  BundleHeader header{};
  uint8_t* bytes = reinterpret_cast<uint8_t*>(&header);
  if (size) std::memcpy(bytes, start.data(), memory_size(std::min(size, kHeaderBytes)));
  if (size == 0 || std::memcmp(bytes, kMagic, memory_size(std::min<uint64_t>(size, 4))) != 0) {
    throw FormatError("not a bundle of users' files: it does not begin with 'PEEB'");
  }
  if (size < kHeaderBytes) throw_cut_short(size);
  if (header.version != kVersion) {
    throw FormatError("version " + std::to_string(header.version) +
                      " of bundles, this reads version " + std::to_string(kVersion));
  }
  if (crc32(0, bytes, kHeaderBytes - 4) != header.checksum) {
    throw FormatError("damaged: the checksum of the bundle's header does not match");
  }
  require(all_zero(header.reserved, sizeof(header.reserved)) &&
              all_zero(header.more_reserved, sizeof(header.more_reserved)),
          "reserved bytes are not zero");
  require(header.num_pages >= 1 && header.page_entries >= 1 &&
              header.page_entries <= kMostPageEntries && header.num_users >= 1 &&
              header.num_users <= uint64_t{header.num_pages} * header.page_entries,
          "numbers of users and pages that cannot be");
  require(header.size >= index_end(header), "it is smaller than its index");
  require(size <= header.size, "bytes behind the last file");
  return header;
}

uint32_t page_of(const uint8_t* key, const BundleHeader& header) {
  const uint64_t begin =
      uint64_t{key[0]} << 24 | uint64_t{key[1]} << 16 | uint64_t{key[2]} << 8 | uint64_t{key[3]};
  return static_cast<uint32_t>(begin * header.num_pages >> 32);
}

std::vector<Entry> read_page(const Source& bundle, const std::vector<uint8_t>& start,
                             const BundleHeader& header, uint32_t number) {
  const uint64_t bytes = page_bytes(header);
  const uint64_t begin = kHeaderBytes + number * bytes;
  if (bundle.size() < begin + bytes) throw_cut_short(bundle.size());
  std::vector<uint8_t> data(memory_size(bytes));
  if (begin + bytes <= start.size()) {
    std::memcpy(data.data(), start.data() + begin, data.size());
  } else {
    bundle.read(begin, bytes, data.data());
  }
  PageHeader page;
  std::memcpy(&page, data.data(), sizeof(page));
  if (crc32(header.checksum, data.data() + 4, bytes - 4) != page.checksum) {
    throw FormatError("damaged: the checksum of page " + std::to_string(number) +
                      " of the bundle's index does not match");
  }
  require(page.number == number && page.num_entries <= header.page_entries &&
              all_zero(page.reserved, sizeof(page.reserved)),
          "a page of the index that cannot be");
  std::vector<Entry> entries(page.num_entries);
  const uint64_t used = sizeof(Entry) * entries.size();
  if (used) std::memcpy(entries.data(), data.data() + sizeof(page), memory_size(used));
  require(all_zero(data.data() + sizeof(page) + used, bytes - sizeof(page) - used),
          "padding that is not zero");
  for (size_t i = 0; i < entries.size(); ++i) {
    const Entry& entry = entries[i];
    require(page_of(entry.key, header) == number, "a user in a wrong page");
    require(i == 0 || std::memcmp(entries[i - 1].key, entry.key, kKeyBytes) < 0,
            "users out of order");
    require(entry.offset % kBlockAlignment == 0 && entry.offset >= index_end(header) &&
                entry.offset <= header.size && entry.size <= header.size - entry.offset,
            "a user's file beyond the bundle");
    require(
        entry.size >= kHeaderBytes && uint64_t{entry.blocks_end} * kBlockAlignment <= entry.size,
        "a user's file without its blocks");
  }
  return entries;
}

}  // namespace

UserFile find_user(const Source& bundle, const std::string& user) {
  if (user.empty()) throw std::invalid_argument("user must not be empty");
  const uint64_t size = bundle.size();
  std::vector<uint8_t> start(memory_size(std::min(size, kStartBytes)));
  if (size) bundle.read(0, start.size(), start.data());
  const BundleHeader header = parse_bundle_header(start, size);
  const std::array<uint8_t, 32> key = sha256(user);
  for (const Entry& entry : read_page(bundle, start, header, page_of(key.data(), header))) {
    if (std::memcmp(entry.key, key.data(), kKeyBytes) != 0) continue;
    return {entry.offset, entry.size, uint64_t{entry.blocks_end} * kBlockAlignment,
            entry.header_checksum};
  }
  throw NoUserError("the bundle has no file of user '" + user + "'");
}

UserSource::UserSource(std::shared_ptr<const Source> bundle, const UserFile& file, uint64_t ahead)
    : bundle_(std::move(bundle)), offset_(file.offset) {
  const uint64_t there = bundle_->size();
  size_ = there < offset_ ? 0 : std::min(file.size, there - offset_);
  if (size_ < kHeaderBytes) {
    throw FormatError("cut short: " + std::to_string(there) +
                      " bytes, the user's file has not arrived");
  }
  const uint64_t wanted = std::min({ahead, file.blocks_end, size_});
  ahead_.resize(memory_size(std::max(wanted, kHeaderBytes)));
  bundle_->read(offset_, ahead_.size(), ahead_.data());
  uint32_t blocks_end;
  uint32_t checksum;
  std::memcpy(&blocks_end, ahead_.data() + 44, sizeof(blocks_end));
  std::memcpy(&checksum, ahead_.data() + 60, sizeof(checksum));
  if (uint64_t{blocks_end} * kBlockAlignment != file.blocks_end ||
      checksum != file.header_checksum) {
    throw FormatError("damaged: the file at byte " + std::to_string(offset_) +
                      " of the bundle is not the one that the index means");
  }
}

void UserSource::read(uint64_t offset, uint64_t count, uint8_t* into) const {
  {
    const std::lock_guard<Mutex> lock(mutex_);
    if (count <= ahead_.size() && offset <= ahead_.size() - count) {
      if (count) std::memcpy(into, ahead_.data() + offset, static_cast<size_t>(count));
      if (offset + count == ahead_.size()) std::vector<uint8_t>().swap(ahead_);
      return;
    }
  }
  bundle_->read(offset_ + offset, count, into);
}

const uint8_t* UserSource::in_place() const {
  const uint8_t* data = bundle_->in_place();
  return data ? data + offset_ : nullptr;
}

}  // namespace peel
