// A user's file in a bundle, used once: shared by the tests of hostile bytes and the fuzz target.
#pragma once

#include <memory>
#include <string>

#include "device/bundle.h"
#include "files.h"
#include "use.h"

namespace files {

// Blocks held of a user's file; -1 where it is refused, by a typed error.
inline int blocks_of_user(const uint8_t* data, uint64_t size, const std::string& user,
                          uint64_t budget = peel::kNoBudget) {
  try {
    const auto bundle = std::make_shared<peel::MemorySource>(data, size);
    const auto source =
        std::make_shared<peel::UserSource>(bundle, peel::find_user(*bundle, user), budget);
    const peel::PeelFile file(source, budget);
    use(file);
    return static_cast<int>(file.snapshot()->num_blocks());
  } catch (const peel::FormatError&) {
  } catch (const peel::BudgetError&) {
  } catch (const peel::NoUserError&) {
  }
  return -1;
}

}  // namespace files
