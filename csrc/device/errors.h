// What can be wrong with a file, with where it lies, with a budget or under one.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace peel {

// Bytes that are no .peel file, or a damaged one.
class FormatError : public std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

// The file cannot be read from where it is.
class SourceError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

class ClosedError : public std::logic_error {
 public:
  ClosedError() : std::logic_error("the recommender has been closed") {}
};

// What is asked about is not among the rows held.
class NotHeldError : public std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

// A bundle has no file of the user asked for.
class NoUserError : public std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

// Too few bytes for the first blocks.
class BudgetError : public std::invalid_argument {
 public:
  BudgetError(uint64_t budget_bytes, uint64_t minimum)
      : std::invalid_argument("budget_bytes is " + std::to_string(budget_bytes) +
                              ", but this file needs at least " + std::to_string(minimum) +
                              " bytes"),
        minimum_bytes(minimum) {}
  uint64_t minimum_bytes;
};

}  // namespace peel
