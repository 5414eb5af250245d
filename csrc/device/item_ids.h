// Ids of the items of a .peel file: they stay where they are, and are read when asked for.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "device/file_header.h"
#include "device/source.h"

namespace peel {

enum class ItemIdType { kNone = 0, kInteger = 1, kText = 2 };

// Of a file's ids, without a look at them. Throws FormatError where what is there of the file does
// not tell.
ItemIdType item_id_type(const Source& source, const FileHeader& header);

// Calls may come from any thread.
class ItemIds {
 public:
  // Looks at all their bytes once. Throws FormatError for damaged ones, and where there are none.
  ItemIds(std::shared_ptr<const Source> source, const FileHeader& header);

  bool are_integers() const { return integers_; }
  // That of a row in range, as the file has it: text, or an integer in decimal.
  std::string at(int64_t row) const;
  // The rows of ids, -1 for one that the file does not have. An id is looked for as among ascending
  // ones; those not found so are then looked for among all, once for all of them.
  std::vector<int64_t> find(const std::vector<std::string>& ids) const;

 private:
  std::vector<std::string> names(int64_t first, int64_t count) const;
  bool before(const std::string& a, const std::string& b) const;
  int64_t search(const std::string& id) const;
  void check(const FileHeader& header) const;

  std::shared_ptr<const Source> source_;
  int64_t count_ = 0;
  bool integers_ = false;
  uint64_t begin_ = 0;  // of the payload
  uint64_t bytes_ = 0;  // of the payload
};

}  // namespace peel
