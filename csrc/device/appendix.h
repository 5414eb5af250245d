// What lies behind the blocks of a .peel file: read when it is asked for, never held.
#pragma once

#include <cstdint>
#include <vector>

#include "device/file_header.h"
#include "device/source.h"

namespace peel {

enum class SectionKind : uint32_t { kGroupCentroids = 1, kItemIds = 2, kRotation = 3 };

struct Section {
  uint64_t count = 0;  // of centroids, ids or rows of the rotation; 0: the file has no such section
  uint32_t width = 0;  // values of each; or 1 where ids are integers, 0 where they are text
  std::vector<uint8_t> payload;
};

struct SectionPlace {
  uint64_t begin =
      0;  // of the payload, bytes from the first of the file; 0: there is no such section
  uint64_t bytes = 0;
  uint64_t count = 0;
  uint32_t width = 0;
};

// Where a section lies, without a look at its payload. Throws FormatError where what is there of
// the file does not tell.
SectionPlace find_section(const Source& source, const FileHeader& header, SectionKind kind);

// Throws FormatError for a damaged section, or one beyond the end of what is there of the file.
Section read_section(const Source& source, const FileHeader& header, SectionKind kind);

// The user group whose centroid has the largest product with a user's vector, the first of equals.
// Throws FormatError where the file has no centroids.
int64_t choose_group(const Source& source, const FileHeader& header, const float* user);

// The centroid of the file's own user group, of header.geometry.dim values; empty where it has
// none.
std::vector<float> own_centroid(const Source& source, const FileHeader& header);

// A vector [dim] of the model's space in that of the rows: times the rotation the file carries,
// sums in double. As it is where rows are not rotated. Throws FormatError where they are and the
// file does not carry the rotation.
std::vector<float> rotate(const Source& source, const FileHeader& header, const float* vector);

}  // namespace peel
