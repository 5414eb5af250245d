#include "device/appendix.h"

#include <cstring>
#include <string>

#include "core/sizes.h"
#include "device/checksum.h"
#include "device/errors.h"

namespace peel {
namespace {

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

struct Found {
  SectionHeader header;
  uint64_t payload_at = 0;  // 0: there is no such section
};

[[noreturn]] void throw_cut_short(uint64_t size) {
  throw FormatError("cut short: " + std::to_string(size) +
                    " bytes, what lies behind the blocks is not all there");
}

uint64_t padded_payload(const SectionHeader& header) {
  return (header.payload_bytes + kBlockAlignment - 1) / kBlockAlignment * kBlockAlignment;
}

Found find(const Source& source, const FileHeader& header, SectionKind kind) {
  const uint64_t size = source.size();
  uint64_t at = header.blocks_end;
  if (size < at) throw_cut_short(size);
  while (at < size) {
    Found found;
    if (size - at < sizeof(found.header)) throw_cut_short(size);
    source.read(at, sizeof(found.header), reinterpret_cast<uint8_t*>(&found.header));
    at += sizeof(found.header);
    if (found.header.payload_bytes > size || padded_payload(found.header) > size - at) {
      throw_cut_short(size);
    }
    if (found.header.kind == static_cast<uint32_t>(kind)) {
      found.payload_at = at;
      return found;
    }
    at += padded_payload(found.header);
  }
  return {};
}

Section read_centroids(const Source& source, const FileHeader& header) {
  Section section = read_section(source, header, SectionKind::kGroupCentroids);
  const auto dim = static_cast<uint64_t>(header.geometry.dim);
  if (section.count == 0) return section;
  if (section.width != dim || section.count > section.payload.size() ||
      section.payload.size() != section.count * dim * sizeof(float)) {
    throw FormatError("not a valid .peel file: centroids do not fit the table");
  }
  return section;
}

}  // namespace

SectionPlace find_section(const Source& source, const FileHeader& header, SectionKind kind) {
  const Found found = find(source, header, kind);
  if (found.payload_at == 0) return {};
  return {found.payload_at, found.header.payload_bytes, found.header.count, found.header.width};
}

Section read_section(const Source& source, const FileHeader& header, SectionKind kind) {
  const Found found = find(source, header, kind);
  if (found.payload_at == 0) return {};
  const uint64_t padded = padded_payload(found.header);
  Section section{found.header.count, found.header.width,
                  std::vector<uint8_t>(memory_size(padded))};
  source.read(found.payload_at, padded, section.payload.data());
  const uint32_t seed = crc32(header.checksum, reinterpret_cast<const uint8_t*>(&found.header) + 4,
                              sizeof(found.header) - 4);
  if (crc32(seed, section.payload.data(), padded) != found.header.checksum) {
    throw FormatError("damaged: the checksum of section " + std::to_string(found.header.kind) +
                      " does not match");
  }
  section.payload.resize(memory_size(found.header.payload_bytes));
  return section;
}

int64_t choose_group(const Source& source, const FileHeader& header, const float* user) {
  const Section section = read_centroids(source, header);
  if (section.count == 0) throw FormatError("this file has no centroids to choose a group by");
  const auto dim = static_cast<uint64_t>(header.geometry.dim);
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

std::vector<float> own_centroid(const Source& source, const FileHeader& header) {
  if (source.size() < header.blocks_end) return {};
  const Section section = read_centroids(source, header);
  if (header.group >= section.count) return {};
  std::vector<float> centroid(static_cast<size_t>(header.geometry.dim));
  std::memcpy(centroid.data(),
              section.payload.data() + header.group * centroid.size() * sizeof(float),
              centroid.size() * sizeof(float));
  return centroid;
}

std::vector<float> rotate(const Source& source, const FileHeader& header, const float* vector) {
  const auto dim = static_cast<size_t>(header.geometry.dim);
  std::vector<float> rotated(vector, vector + dim);
  if (!header.rotated) return rotated;
  const Section section = read_section(source, header, SectionKind::kRotation);
  if (section.count == 0) {
    throw FormatError(
        "the rows of this file are rotated and it does not carry the rotation: rotate vectors "
        "before "
        "they are shipped");
  }
  if (section.count != dim || section.width != dim ||
      section.payload.size() != dim * dim * sizeof(float)) {
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
