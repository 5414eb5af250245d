// The module of the npm package: the C interface, with sizes as JavaScript's numbers and bytes read
// by a function of the host. Everything else it calls in peel.h as it is.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>

#include "device/peel.h"

#define PEEL_EXPORT(name) __attribute__((export_name(name), visibility("default")))

extern "C" {

// Fills `into` with `count` bytes at `offset` and returns 0, or anything else where it has not got
// them.
__attribute__((import_module("peel"), import_name("read"))) int peel_host_read(double offset,
                                                                               double count,
                                                                               void* into);

static int read_from_host(void*, uint64_t offset, uint64_t count, void* into) {
  return peel_host_read(static_cast<double>(offset), static_cast<double>(count), into);
}

// A budget below 0: no limit.
PEEL_EXPORT("open")
peel_status peel_wasm_open(double size, double budget_bytes, peel_recommender** recommender,
                           peel_error* error) {
  const peel_source source{&read_from_host, nullptr, nullptr, static_cast<uint64_t>(size)};
  const uint64_t budget = budget_bytes < 0 ? PEEL_NO_BUDGET : static_cast<uint64_t>(budget_bytes);
  return peel_open_source(&source, budget, recommender, error);
}

PEEL_EXPORT("find_user")
peel_status peel_wasm_find_user(double size, const char* user, peel_user_file* found,
                                peel_error* error) {
  const peel_source source{&read_from_host, nullptr, nullptr, static_cast<uint64_t>(size)};
  return peel_find_user(&source, user, found, error);
}

PEEL_EXPORT("allocate") void* peel_wasm_allocate(size_t bytes) { return std::malloc(bytes); }
PEEL_EXPORT("release") void peel_wasm_release(void* memory) { std::free(memory); }

}  // extern "C"

// That of this toolchain's library ends the module where there is no memory.
void* operator new(size_t bytes) {
  if (void* memory = std::malloc(bytes ? bytes : 1)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }

// What of the C library is nowhere else. What it says before it ends a program, and an environment,
// nobody would see.
extern "C" {
thread_local int errno = 0;
[[noreturn]] void __abort_message(const char*, ...) { __builtin_trap(); }
void abort() { __builtin_trap(); }
char* getenv(const char*) { return nullptr; }
}
