// A file under a walk of budgets, read through a callback into memory that grows and shrinks. The
// last 8 bytes are the budgets, in 16ths of the file.
#include "device/peel.h"
#include "files.h"
#include "use.h"

namespace {

class Copying : public peel::Source {
 public:
  explicit Copying(const files::Bytes& bytes) : bytes_(bytes) {}
  uint64_t size() const override { return bytes_.size(); }
  void read(uint64_t offset, uint64_t count, uint8_t* into) const override {
    if (count) std::memcpy(into, bytes_.data() + offset, count);
  }

 private:
  const files::Bytes& bytes_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 8) return 0;
  files::Bytes bytes;
  bytes.append(data, size - 8);
  files::seal(bytes);
  try {
    peel::PeelFile file(std::make_shared<Copying>(bytes), peel::kNoBudget);
    for (int at = 0; at < 8; ++at) {
      const uint64_t budget = bytes.size() * data[size - 8 + at] / 16;
      try {
        file.resize(budget);
        CHECK(file.snapshot()->nbytes() <= budget);
      } catch (const peel::BudgetError& error) {
        CHECK(error.minimum_bytes > budget);
      }
      files::use(file);
    }
  } catch (const peel::FormatError&) {
  }
  return 0;
}
