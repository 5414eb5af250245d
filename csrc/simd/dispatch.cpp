#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "core/processor.h"
#include "simd/primitives.h"

namespace peel::simd {
namespace {

struct Sets {
  const Primitives* list[6] = {};
  int count = 0;

  Sets() {
#if defined(PEEL_X86)
    if (processor().avx512_vnni) list[count++] = &kAvx512Vnni;
    if (processor().avx512) list[count++] = &kAvx512;
    if (processor().avx2) list[count++] = &kAvx2;
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
