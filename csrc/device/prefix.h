// The first bytes of a .peel file in memory: a range that grows and shrinks at its end and never
// moves, so that those who read it go on while it changes.
#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <utility>

#include "core/mutex.h"
#include "device/source.h"

namespace peel {

class Prefix {
 public:
  // Reserves addresses for up to `limit` bytes, and holds none; uses the source's own memory where
  // it has some.
  Prefix(std::shared_ptr<const Source> source, uint64_t limit);
  ~Prefix();
  Prefix(const Prefix&) = delete;
  Prefix& operator=(const Prefix&) = delete;

  const uint8_t* data() const { return data_; }
  const Source& source() const { return *source_; }

  // Whoever pins an end keeps the bytes before it. Memory beyond all pinned ends goes back to the
  // system.
  void pin(uint64_t end);
  void unpin(uint64_t end);
  // Reads what is missing of the first `end` bytes, which the caller has pinned. One at a time.
  void fetch(uint64_t end);

 private:
  std::shared_ptr<const Source> source_;
  uint64_t limit_;
  uint8_t* reserved_ = nullptr;
  const uint8_t* data_ = nullptr;
  Mutex mutex_;  // guards what follows
  std::multiset<uint64_t> ends_;
  uint64_t there_ = 0;      // bytes read
  uint64_t committed_ = 0;  // bytes that may be written: whole pages
};

// A pin that ends with its scope.
class Pin {
 public:
  Pin(std::shared_ptr<Prefix> prefix, uint64_t end) : prefix_(std::move(prefix)), end_(end) {
    prefix_->pin(end_);
  }
  ~Pin() { prefix_->unpin(end_); }
  Pin(const Pin&) = delete;
  Pin& operator=(const Pin&) = delete;

 private:
  std::shared_ptr<Prefix> prefix_;
  uint64_t end_;
};

}  // namespace peel
