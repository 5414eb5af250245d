#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "simd/primitives.h"

#if defined(PEEL_X86)
#include <cpuid.h>
#endif

namespace peel::simd {
namespace {

#if defined(PEEL_X86)
// Not every compiler's __builtin_cpu_supports knows it.
bool has_f16c() {
  unsigned a, b, c, d;
  return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#endif

struct Sets {
  const Primitives* list[6] = {};
  int count = 0;

  Sets() {
#if defined(PEEL_X86)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
    if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
      if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi")) {
        list[count++] = &kAvx512Vnni;
      }
      list[count++] = &kAvx512;
    }
    if (avx2) list[count++] = &kAvx2;
#elif defined(PEEL_ARM64)
    list[count++] = &kNeon;
#endif
#if defined(__wasm_simd128__)
    list[count++] = &kWasm128;  // alone: what runs a module at all runs all of its instructions
#else
    list[count++] = &kPortable;
#endif
  }
};

const Sets& sets() {
  static const Sets all;
  return all;
}

const Primitives& choose() {
  const char* wanted = std::getenv("PEEL_ISA");
  if (wanted == nullptr || *wanted == '\0') return *sets().list[0];
  if (const Primitives* found = find(wanted)) return *found;
  std::string names;
  for (int i = 0; i < sets().count; ++i) names += std::string(i ? ", " : "") + sets().list[i]->name;
  throw std::invalid_argument("PEEL_ISA is '" + std::string(wanted) +
                              "', but this processor and build offer: " + names);
}

}  // namespace

const Primitives* const* available() { return sets().list; }

const Primitives* find(const char* name) {
  for (int i = 0; i < sets().count; ++i) {
    if (std::strcmp(sets().list[i]->name, name) == 0) return sets().list[i];
  }
  return nullptr;
}

const Primitives& primitives() {
  static const Primitives& chosen = choose();
  return chosen;
}

}  // namespace peel::simd
