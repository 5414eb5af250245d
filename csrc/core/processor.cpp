#include "core/processor.h"

#include <cstdint>

// Asked directly: __builtin_cpu_supports knows nothing under some compilers, and not all names
// under others.
#if defined(PEEL_X86)
#include <cpuid.h>
#endif

namespace peel {
namespace {

#if defined(PEEL_X86)
constexpr bool has(uint32_t word, int bit) { return (word >> bit) & 1u; }

// The registers that the system saves for a program, in the bits of XCR0.
uint32_t saved_registers() {
  uint32_t low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

// Bits as in Intel's manual, volume 2, CPUID.
Processor detect() {
  Processor found;
  uint32_t a, b, c, d;
  if (!__get_cpuid(0, &a, &b, &c, &d)) return found;
  // "GenuineIntel": the spatial prefetcher of its optimisation manual. No bit tells of it.
  found.brings_pairs_of_lines = b == 0x756e6547 && d == 0x49656e69 && c == 0x6c65746e;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return found;
  const uint32_t first = c;
  found.carryless_product = has(first, 1) && has(first, 19);
  const bool saves = has(first, 27);  // the system has set XCR0
  const uint32_t saved = saves ? saved_registers() : 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return found;
  const bool ymm = (saved & 0x6) == 0x6;    // SSE and AVX state
  const bool zmm = (saved & 0xe6) == 0xe6;  // and masks, and both parts of AVX-512's
  found.avx2 = ymm && has(first, 12) && has(first, 28) && has(first, 29) && has(b, 5);
  found.wide_carryless_product = found.carryless_product && found.avx2 && has(c, 10);
  found.avx512 = found.avx2 && zmm && has(b, 16) && has(b, 17) && has(b, 30) && has(b, 31);
  found.avx512_vnni = found.avx512 && has(c, 1) && has(c, 8) && has(c, 11);
  return found;
}
#else
Processor detect() { return {}; }
#endif

}  // namespace

const Processor& processor() {
  static const Processor found = detect();
  return found;
}

}  // namespace peel
