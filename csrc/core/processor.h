// What instructions this processor has, and its system lets a program use.
#pragma once

namespace peel {

struct Processor {
  bool carryless_product = false;       // PCLMULQDQ and SSE4.1
  bool avx2 = false;                    // and FMA, F16C
  bool avx512 = false;                  // F, BW, VL and DQ, and all of the above
  bool avx512_vnni = false;             // VBMI and GFNI, and all of the above
  bool wide_carryless_product = false;  // VPCLMULQDQ, and the first two
};

// Nothing where the processor is not an x86.
const Processor& processor();

}  // namespace peel
