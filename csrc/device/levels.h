// What the codes of the planes layout stand for: a part of the format, the same everywhere.
#pragma once

namespace peel {

// 510 values; those of b bits start at 2^b - 2 (peel_ext/format/quantizer.py has the formula).
const float* levels();

}  // namespace peel
