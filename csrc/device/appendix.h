// What lies behind the blocks of a .peel file: read when it is asked for, never held.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/mutex.h"
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

// The sections of a file. Their headers are read once, when one is first asked for. All calls may
// come from any thread.
//
// Of a torn file the sections that are whole can be had; to ask for another is a FormatError, for
// nobody knows whether it has one. So is whatever follows the blocks and is no section.
class Appendix {
 public:
  Appendix(std::shared_ptr<const Source> source, const FileHeader& header);

  // Where a section lies, without a look at its payload.
  SectionPlace find(SectionKind kind) const;
  // Throws FormatError for one that is damaged, too.
  Section read(SectionKind kind) const;

  // The user group whose centroid has the largest product with a user's vector, the first of
  // equals. Throws FormatError where the file has no centroids.
  int64_t choose_group(const float* user) const;
  // The centroid of the file's own user group, of header.geometry.dim values; empty where it has
  // none, or where it is torn and they have not arrived.
  std::vector<float> own_centroid() const;
  // A vector [dim] of the model's space in that of the rows: times the rotation the file carries,
  // sums in double. As it is where rows are not rotated. Throws FormatError where they are and the
  // file does not carry the rotation.
  std::vector<float> rotate(const float* vector) const;

 private:
  struct Found;     // a section's header, and where its payload begins
  struct Sections;  // all there are, and whether more were to come
  std::shared_ptr<const Sections> sections() const;
  const Found* look_for(const Sections& sections, SectionKind kind) const;
  Section read_centroids() const;

  std::shared_ptr<const Source> source_;
  FileHeader header_;
  mutable Mutex mutex_;  // guards what follows
  mutable std::shared_ptr<const Sections> sections_;
};

}  // namespace peel
