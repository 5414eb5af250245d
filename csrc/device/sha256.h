// SHA-256 (FIPS 180-4).
#pragma once

#include <array>
#include <cstdint>
#include <string>

namespace peel {

std::array<uint8_t, 32> sha256(const std::string& text);

}  // namespace peel
