#include "device/item_ids.h"

#include <algorithm>
#include <cstring>
#include <unordered_map>
#include <utility>

#include "core/sizes.h"
#include "device/appendix.h"
#include "device/checksum.h"
#include "device/errors.h"

namespace peel {
namespace {

// Bytes of the file, or ids, looked at together.
constexpr uint64_t kPieceBytes = 1 << 16;
constexpr int64_t kPieceIds = 1 << 12;

constexpr uint64_t kPositionBytes = 4;

uint32_t read_position(const uint8_t* at) {
  uint32_t position;
  std::memcpy(&position, at, sizeof(position));
  return position;
}

// Written as str() of Python does.
bool is_integer(const std::string& name) {
  const size_t digits = name[0] == '-' ? 1 : 0;
  if (name.size() == digits || name == "-0") return false;
  if (name[digits] == '0' && name.size() > digits + 1) return false;
  return std::all_of(name.begin() + static_cast<std::ptrdiff_t>(digits), name.end(),
                     [](char c) { return c >= '0' && c <= '9'; });
}

[[noreturn]] void throw_overlap() { throw FormatError("not a valid .peel file: item ids overlap"); }

}  // namespace

ItemIdType item_id_type(const Source& source, const FileHeader& header) {
  const SectionPlace place = find_section(source, header, SectionKind::kItemIds);
  if (place.begin == 0) return ItemIdType::kNone;
  return place.width ? ItemIdType::kInteger : ItemIdType::kText;
}

ItemIds::ItemIds(std::shared_ptr<const Source> source, const FileHeader& header)
    : source_(std::move(source)), count_(header.num_embeddings) {
  const SectionPlace place = find_section(*source_, header, SectionKind::kItemIds);
  if (place.begin == 0) throw FormatError("this file has no item ids");
  if (place.count != static_cast<uint64_t>(count_)) {
    throw FormatError("not a valid .peel file: " + std::to_string(place.count) +
                      " item ids, expected " + std::to_string(count_));
  }
  if (place.bytes < kPositionBytes * (place.count + 1)) {
    throw FormatError("not a valid .peel file: item ids are cut short");
  }
  integers_ = place.width != 0;
  begin_ = place.begin;
  bytes_ = place.bytes;
  check(header);
}

// Checksum and positions, a piece at a time.
void ItemIds::check(const FileHeader& header) const {
  uint8_t section[kBlockAlignment];
  source_->read(begin_ - sizeof(section), sizeof(section), section);
  uint32_t checksum = crc32(header.checksum, section + 4, sizeof(section) - 4);
  const uint64_t padded = (bytes_ + kBlockAlignment - 1) / kBlockAlignment * kBlockAlignment;
  const uint64_t positions = kPositionBytes * (static_cast<uint64_t>(count_) + 1);
  uint32_t last = 0;
  std::vector<uint8_t> piece(memory_size(std::min(kPieceBytes, padded)));
  for (uint64_t at = 0; at < padded; at += kPieceBytes) {
    const uint64_t size = std::min(kPieceBytes, padded - at);
    source_->read(begin_ + at, size, piece.data());
    checksum = crc32(checksum, piece.data(), size);
    for (uint64_t i = at; i < std::min(at + size, positions); i += kPositionBytes) {
      const uint32_t position = read_position(piece.data() + (i - at));
      if (position < last || (i == 0 && position != 0)) throw_overlap();
      last = position;
    }
  }
  if (checksum != read_position(section)) {
    throw FormatError("damaged: the checksum of section " +
                      std::to_string(static_cast<uint32_t>(SectionKind::kItemIds)) +
                      " does not match");
  }
  if (last != bytes_ - positions) throw_overlap();
}

// Of the rows [first, first + count).
std::vector<std::string> ItemIds::names(int64_t first, int64_t count) const {
  const auto num = static_cast<size_t>(count);
  std::vector<uint8_t> ends(memory_size(kPositionBytes * (num + 1)));
  source_->read(begin_ + kPositionBytes * static_cast<uint64_t>(first), ends.size(), ends.data());
  const auto end_at = [&](size_t i) { return read_position(ends.data() + kPositionBytes * i); };
  const uint64_t text_at = kPositionBytes * (static_cast<uint64_t>(count_) + 1);
  for (size_t i = 0; i < num; ++i) {
    if (end_at(i) <= end_at(i + 1) && end_at(i + 1) <= bytes_ - text_at) continue;
    throw FormatError("damaged: item ids have changed since they were checked");
  }
  std::vector<uint8_t> text(end_at(num) - end_at(0));
  source_->read(begin_ + text_at + end_at(0), text.size(), text.data());
  std::vector<std::string> found;
  found.reserve(num);
  for (size_t i = 0; i < num; ++i) {
    found.emplace_back(text.begin() + (end_at(i) - end_at(0)),
                       text.begin() + (end_at(i + 1) - end_at(0)));
    if (!integers_ || is_integer(found.back())) continue;
    throw FormatError("not a valid .peel file: item id '" + found.back() + "' is no integer");
  }
  return found;
}

std::string ItemIds::at(int64_t row) const { return names(row, 1)[0]; }

// Integers of any size are compared as they are written.
bool ItemIds::before(const std::string& a, const std::string& b) const {
  if (!integers_) return a < b;
  const bool negative = a[0] == '-';
  if (negative != (b[0] == '-')) return negative;
  const std::string& nearer = negative ? b : a;
  const std::string& farther = negative ? a : b;
  if (nearer.size() != farther.size()) return nearer.size() < farther.size();
  return nearer < farther;
}

int64_t ItemIds::search(const std::string& id) const {
  int64_t low = 0;
  int64_t high = count_;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    const std::string found = at(middle);
    if (found == id) return middle;
    if (before(found, id)) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return -1;
}

std::vector<int64_t> ItemIds::find(const std::vector<std::string>& ids) const {
  std::vector<int64_t> rows(ids.size(), -1);
  std::unordered_map<std::string, int64_t> missing;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (integers_ && !is_integer(ids[i])) continue;
    rows[i] = search(ids[i]);
    if (rows[i] < 0) missing.emplace(ids[i], -1);
  }
  if (missing.empty()) return rows;
  for (int64_t first = 0; first < count_; first += kPieceIds) {
    int64_t row = first;
    for (const std::string& name : names(first, std::min(kPieceIds, count_ - first))) {
      const auto place = missing.find(name);
      if (place != missing.end()) place->second = row;
      ++row;
    }
  }
  for (size_t i = 0; i < ids.size(); ++i) {
    const auto place = rows[i] < 0 ? missing.find(ids[i]) : missing.end();
    if (place != missing.end()) rows[i] = place->second;
  }
  return rows;
}

}  // namespace peel
