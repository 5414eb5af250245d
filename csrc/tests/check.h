// The smallest test harness that names what failed.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>

#define CHECK(condition)                                                           \
  do {                                                                             \
    if (!(condition)) {                                                            \
      std::fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                                \
    }                                                                              \
  } while (0)

#define CHECK_THROWS(statement)                                                           \
  do {                                                                                    \
    bool thrown = false;                                                                  \
    try {                                                                                 \
      statement;                                                                          \
    } catch (const std::exception&) {                                                     \
      thrown = true;                                                                      \
    }                                                                                     \
    if (!thrown) {                                                                        \
      std::fprintf(stderr, "%s:%d: did not throw: %s\n", __FILE__, __LINE__, #statement); \
      std::exit(1);                                                                       \
    }                                                                                     \
  } while (0)

// A generator whose seed is printed, PEEL_TEST_SEED or a fresh one.
inline std::mt19937_64 seeded() {
  const char* given = std::getenv("PEEL_TEST_SEED");
  const unsigned seed = given ? static_cast<unsigned>(std::atoi(given)) : std::random_device{}();
  std::printf("PEEL_TEST_SEED=%u\n", seed);
  return std::mt19937_64(seed);
}
