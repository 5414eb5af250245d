#include <cmath>
#include <vector>

#include "check.h"
#include "core/half.h"
#include "simd/primitives.h"

namespace {

using peel::simd::kTileRows;
using peel::simd::Primitives;

std::vector<float> noise(std::mt19937_64& random, size_t count) {
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (auto& value : values) value = normal(random);
  return values;
}

void decodes_alike(std::mt19937_64& random, const Primitives& isa, int64_t dim) {
  const std::vector<float> centroids = noise(random, 256);
  std::vector<uint8_t> bytes(8 * static_cast<size_t>((dim + 7) / 8));
  for (auto& byte : bytes) byte = static_cast<uint8_t>(random());
  for (int bits = 1; bits <= 8; ++bits) {
    const uint8_t* planes[8];
    for (int b = 0; b < bits; ++b) planes[b] = bytes.data() + b * ((dim + 7) / 8);
    std::vector<float> out(dim);
    isa.decode_planes(planes, bits, centroids.data(), 0.37f, out.data(), dim);
    for (int64_t d = 0; d < dim; ++d) {
      int code = 0;
      for (int b = 0; b < bits; ++b) code = code << 1 | (planes[b][d / 8] >> (d % 8) & 1);
      CHECK(out[d] == centroids[code] * 0.37f);
    }
  }
  std::vector<int8_t> small(dim);
  std::vector<uint16_t> halves(dim);
  for (int64_t d = 0; d < dim; ++d) {
    small[d] = static_cast<int8_t>(random());
    halves[d] = static_cast<uint16_t>(random() % 0x7c00);
  }
  std::vector<float> out(dim);
  isa.decode_int8(small.data(), 0.11f, out.data(), dim);
  for (int64_t d = 0; d < dim; ++d) CHECK(out[d] == static_cast<float>(small[d]) * 0.11f);
  isa.decode_float16(halves.data(), out.data(), dim);
  for (int64_t d = 0; d < dim; ++d) CHECK(out[d] == peel::half_to_float(halves[d]));
}

void rotates_alike(std::mt19937_64& random, const Primitives& isa, int64_t dim) {
  const std::vector<float> x = noise(random, dim), matrix = noise(random, dim * dim);
  std::vector<float> out(dim);
  isa.rotate(x.data(), matrix.data(), out.data(), dim);
  for (int64_t j = 0; j < dim; ++j) {
    volatile float sum = x[0] * matrix[j];  // volatile: every step rounded to float
    for (int64_t k = 1; k < dim; ++k) {
      volatile float product = x[k] * matrix[k * dim + j];
      sum = sum + product;
    }
    CHECK(out[j] == sum);
  }
}

void scores_alike(std::mt19937_64& random, const Primitives& isa, int64_t dim, int64_t rows) {
  const std::vector<float> table = noise(random, rows * dim);
  std::vector<float> tile(kTileRows * dim, 7.0f);
  isa.transpose(table.data(), dim, rows, dim, tile.data());
  for (int64_t d = 0; d < dim; ++d) {
    for (int64_t r = 0; r < kTileRows; ++r) {
      CHECK(tile[d * kTileRows + r] == (r < rows ? table[r * dim + d] : 0.0f));
    }
  }
  for (const int64_t users : {1, 3, 4, 5, 9}) {
    const std::vector<float> vectors = noise(random, users * dim);
    std::vector<float> out(users * kTileRows);
    isa.dot_tile(vectors.data(), users, dim, tile.data(), dim, out.data());
    for (int64_t u = 0; u < users; ++u) {
      for (int64_t r = 0; r < rows; ++r) {
        double exact = 0, size = 0;
        for (int64_t d = 0; d < dim; ++d) {
          const double product = double(vectors[u * dim + d]) * double(table[r * dim + d]);
          exact += product;
          size += std::fabs(product);
        }
        CHECK(std::fabs(out[u * kTileRows + r] - exact) <=
              1e-6 * size * std::sqrt(double(dim)) + 1e-7);
        // The same bits whatever is scored beside it.
        float alone[kTileRows];
        isa.dot_tile(vectors.data() + u * dim, 1, dim, tile.data(), dim, alone);
        CHECK(alone[r] == out[u * kTileRows + r]);
      }
    }
  }
}

void halves_are_exact() {
  CHECK(peel::half_to_float(0x3c00) == 1.0f);
  CHECK(peel::half_to_float(0xc000) == -2.0f);
  CHECK(peel::half_to_float(0x7bff) == 65504.0f);
  CHECK(peel::half_to_float(0x0001) == std::ldexp(1.0f, -24));
  CHECK(peel::half_to_float(0x03ff) == std::ldexp(1023.0f, -24));
  CHECK(std::isinf(peel::half_to_float(0x7c00)) && std::isnan(peel::half_to_float(0x7e00)));
}

}  // namespace

int main() {
  std::mt19937_64 random = seeded();
  halves_are_exact();
  int sets = 0;
  for (const Primitives* const* set = peel::simd::available(); *set; ++set, ++sets) {
    std::printf("instruction set %s\n", (*set)->name);
    CHECK(peel::simd::find((*set)->name) == *set);
    for (const int64_t dim : {1, 3, 7, 8, 9, 16, 17, 31, 33, 64, 65}) {
      decodes_alike(random, **set, dim);
      rotates_alike(random, **set, dim);
      for (const int64_t rows : {1, 5, 31, 32}) scores_alike(random, **set, dim, rows);
    }
  }
  CHECK(sets >= 1 && std::strcmp(peel::simd::available()[sets - 1]->name, "portable") == 0);
  CHECK(peel::simd::find("no such set") == nullptr);
}
