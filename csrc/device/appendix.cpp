#include "device/appendix.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <mutex>
#include <string>
#include <utility>

#include "core/sizes.h"
#include "device/block_checks.h"
#include "device/checksum.h"
#include "device/errors.h"

namespace peel {
namespace {

constexpr size_t kMostSections = 64;  // whose headers are kept

// As it lies in the file, little endian; the payload follows, padded to kBlockAlignment.
struct SectionHeader {
  uint32_t checksum;  // of all that follows, padding included
  uint32_t kind;
  uint64_t payload_bytes;
  uint64_t count;
  uint32_t width;
  uint8_t reserved[36];
};
static_assert(sizeof(SectionHeader) == kBlockAlignment, "sections begin aligned");

[[noreturn]] void throw_cut_short(uint64_t size) {
  throw FormatError("cut short: " + std::to_string(size) +
                    " bytes, what lies behind the blocks is not all there");
}

void require(bool condition, const char* what) {
  if (!condition) throw FormatError(std::string("not a valid .peel file: ") + what);
}

uint64_t padded_payload(const SectionHeader& header) {
  return (header.payload_bytes + kBlockAlignment - 1) / kBlockAlignment * kBlockAlignment;
}

}  // namespace

struct Appendix::Found {
  SectionHeader header;
  uint64_t payload_at = 0;
};

struct Appendix::Sections {
  std::vector<Found> whole;
  bool torn = false;
};

Appendix::Appendix(std::shared_ptr<const Source> source, const FileHeader& header)
    : source_(std::move(source)), header_(header) {}

// Two threads that ask at first may both read: nobody waits for a lock while bytes come.
std::shared_ptr<const Appendix::Sections> Appendix::sections() const {
  {
    const std::lock_guard<Mutex> lock(mutex_);
    if (sections_) return sections_;
  }
  auto fresh = std::make_shared<Sections>();
  const uint64_t size = source_->size();
  uint64_t at = header_.blocks_end;
  fresh->torn = size < at;
  while (at < size && !fresh->torn) {
    Found found;
    fresh->torn = size - at < sizeof(found.header);
    if (fresh->torn) break;
    source_->read(at, sizeof(found.header), reinterpret_cast<uint8_t*>(&found.header));
    const SectionHeader& header = found.header;
    require(header.kind != 0 && all_zero(header.reserved, sizeof(header.reserved)),
            "what follows the blocks is no section");
    for (const Found& before : fresh->whole) {
      require(before.header.kind != header.kind, "a section twice");
    }
    at += sizeof(found.header);
    fresh->torn = header.payload_bytes > size - at || padded_payload(header) > size - at;
    if (fresh->torn) break;
    found.payload_at = at;
    fresh->whole.push_back(found);
    at += padded_payload(header);
    require(fresh->whole.size() <= kMostSections, "more sections than there can be");
  }
  const std::lock_guard<Mutex> lock(mutex_);
  sections_ = std::move(fresh);
  return sections_;
}

// Null where there is none.
const Appendix::Found* Appendix::look_for(const Sections& sections, SectionKind kind) const {
  for (const Found& found : sections.whole) {
    if (found.header.kind == static_cast<uint32_t>(kind)) return &found;
  }
  if (sections.torn) throw_cut_short(source_->size());
  return nullptr;
}

SectionPlace Appendix::find(SectionKind kind) const {
  const std::shared_ptr<const Sections> all = sections();
  const Found* found = look_for(*all, kind);
  if (!found) return {};
  return {found->payload_at, found->header.payload_bytes, found->header.count, found->header.width};
}

Section Appendix::read(SectionKind kind) const {
  const std::shared_ptr<const Sections> all = sections();
  const Found* found = look_for(*all, kind);
  if (!found) return {};
  const SectionHeader& header = found->header;
  const uint64_t padded = padded_payload(header);
  Section section{header.count, header.width, std::vector<uint8_t>(memory_size(padded))};
  source_->read(found->payload_at, padded, section.payload.data());
  const uint32_t seed =
      crc32(header_.checksum, reinterpret_cast<const uint8_t*>(&header) + 4, sizeof(header) - 4);
  if (crc32(seed, section.payload.data(), padded) != header.checksum) {
    throw FormatError("damaged: the checksum of section " + std::to_string(header.kind) +
                      " does not match");
  }
  require(all_zero(section.payload.data() + header.payload_bytes, padded - header.payload_bytes),
          "padding that is not zero");
  section.payload.resize(memory_size(header.payload_bytes));
  return section;
}

Section Appendix::read_centroids() const {
  Section section = read(SectionKind::kGroupCentroids);
  const auto dim = static_cast<uint64_t>(header_.geometry.dim);
  if (section.count == 0) return section;
  require(section.width == dim && section.count <= section.payload.size() &&
              section.payload.size() == section.count * dim * sizeof(float),
          "centroids do not fit the table");
  for (uint64_t at = 0; at < section.payload.size(); at += sizeof(float)) {
    float value;
    std::memcpy(&value, section.payload.data() + at, sizeof(value));
    require(std::isfinite(value), "a centroid that is not finite");
  }
  return section;
}

int64_t Appendix::choose_group(const float* user) const {
  const Section section = read_centroids();
  if (section.count == 0) throw FormatError("this file has no centroids to choose a group by");
  const auto dim = static_cast<uint64_t>(header_.geometry.dim);
  int64_t best = 0;
  double best_product = 0;
  for (uint64_t group = 0; group < section.count; ++group) {
    double product = 0;
    for (uint64_t d = 0; d < dim; ++d) {
      float value;
      std::memcpy(&value, section.payload.data() + (group * dim + d) * sizeof(value),
                  sizeof(value));
      product += static_cast<double>(value) * static_cast<double>(user[d]);
    }
    if (group == 0 || product > best_product) {
      best = static_cast<int64_t>(group);
      best_product = product;
    }
  }
  return best;
}

std::vector<float> Appendix::own_centroid() const {
  const std::shared_ptr<const Sections> all = sections();
  const auto is_centroids = [](const Found& found) {
    return found.header.kind == static_cast<uint32_t>(SectionKind::kGroupCentroids);
  };
  if (std::none_of(all->whole.begin(), all->whole.end(), is_centroids)) return {};
  const Section section = read_centroids();
  if (header_.group >= section.count) return {};
  std::vector<float> centroid(static_cast<size_t>(header_.geometry.dim));
  std::memcpy(centroid.data(),
              section.payload.data() + header_.group * centroid.size() * sizeof(float),
              centroid.size() * sizeof(float));
  return centroid;
}

std::vector<float> Appendix::rotate(const float* vector) const {
  const auto dim = static_cast<size_t>(header_.geometry.dim);
  std::vector<float> rotated(vector, vector + dim);
  if (!header_.rotated) return rotated;
  const Section section = read(SectionKind::kRotation);
  if (section.count == 0) {
    throw FormatError(
        "the rows of this file are rotated and it does not carry the rotation: rotate vectors "
        "before they are shipped");
  }
  if (section.count != dim || section.width != dim ||
      section.payload.size() != uint64_t{dim} * dim * sizeof(float)) {
    throw FormatError("not a valid .peel file: the rotation does not fit the table");
  }
  std::vector<double> sums(dim);
  for (size_t row = 0; row < dim; ++row) {
    for (size_t d = 0; d < dim; ++d) {
      float value;
      std::memcpy(&value, section.payload.data() + (row * dim + d) * sizeof(value), sizeof(value));
      sums[d] += static_cast<double>(vector[row]) * static_cast<double>(value);
    }
  }
  for (size_t d = 0; d < dim; ++d) rotated[d] = static_cast<float>(sums[d]);
  return rotated;
}

}  // namespace peel
