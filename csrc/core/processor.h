// What instructions this processor has, and its system lets a program use, and how it reads memory.
#pragma once

namespace peel {

struct Processor {
  bool carryless_product = false;       // PCLMULQDQ and SSE4.1
  bool avx2 = false;                    // and FMA, F16C
  bool avx512 = false;                  // F, BW, VL and DQ, and all of the above
  bool avx512_vnni = false;             // VBMI and GFNI, and all of the above
  bool wide_carryless_product = false;  // VPCLMULQDQ, and the first two
  bool brings_pairs_of_lines = false;   // a line that is asked for comes with its neighbour
};

// All false where the processor is not an x86.
const Processor& processor();

}  // namespace peel
