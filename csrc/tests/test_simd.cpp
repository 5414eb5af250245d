#include <algorithm>
#include <cmath>
#include <fstream>
#include <initializer_list>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "check.h"
#include "core/half.h"
#include "core/processor.h"
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
  const std::vector<float> levels = noise(random, 256);
  std::vector<uint8_t> bytes(8 * static_cast<size_t>((dim + 7) / 8) + 2);
  for (auto& byte : bytes) byte = static_cast<uint8_t>(random());
  for (int bits = 1; bits <= 8; ++bits) {
    // Rows that overlap: each begins a byte after the one before. None ends before the bytes do.
    const int64_t plane_bytes = (dim + 7) / 8;
    const uint16_t scales[3] = {0x3555, 0xb801, 0x0001};
    std::vector<float> out(3 * dim + 1, 7.0f);
    peel::simd::PlanesRow rows[3];
    for (int r = 0; r < 3; ++r) {
      rows[r] = {bytes.data() + r + (8 - bits) * plane_bytes,
                 reinterpret_cast<const uint8_t*>(scales + r), out.data() + r * dim};
    }
    isa.decode_planes(rows, random() % 2 ? rows : nullptr, 3, bits, levels.data(), dim);
    for (int64_t i = 0; i < 3 * dim; ++i) {
      const int64_t r = i / dim, d = i % dim;
      int code = 0;
      for (int b = 0; b < bits; ++b) {
        code = code << 1 | (rows[r].planes[b * plane_bytes + d / 8] >> (d % 8) & 1);
      }
      CHECK(out[i] == levels[code] * peel::half_to_float(scales[r]));
    }
    CHECK(out[3 * dim] == 7.0f);
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
  const int64_t count = static_cast<int64_t>(random() % 11);
  const std::vector<float> x = noise(random, count * dim), matrix = noise(random, dim * dim);
  std::vector<float> out(count * dim);
  isa.rotate(x.data(), count, matrix.data(), out.data(), dim);
  for (int64_t r = 0; r < count; ++r) {
    for (int64_t j = 0; j < dim; ++j) {
      volatile float sum = x[r * dim] * matrix[j];  // volatile: every step rounded to float
      for (int64_t k = 1; k < dim; ++k) {
        volatile float product = x[r * dim + k] * matrix[k * dim + j];
        sum = sum + product;
      }
      CHECK(out[r * dim + j] == sum);
    }
  }
}

// No row that reaches the threshold is missed, whatever the order of the sum.
void bounds_rows(std::mt19937_64& random, const Primitives& isa, int64_t dim, int64_t count) {
  const std::vector<float> user = noise(random, dim), table = noise(random, count * dim);
  const float* rows[kTileRows];
  std::vector<double> bounds(count);
  const float slack = 0.01f, least = 0.25f;
  for (int64_t r = 0; r < count; ++r) {
    rows[r] = table.data() + r * dim;
    double sum = least;
    for (int64_t d = 0; d < dim; ++d) {
      const double x = rows[r][d];
      sum += x * (user[d] + slack * x);
    }
    bounds[r] = sum;
  }
  float found[kTileRows];
  isa.bound_rows(user.data(), rows, random() % 2 ? rows : nullptr, count, dim, slack, least, found);
  for (int64_t r = 0; r < count; ++r) CHECK(std::fabs(found[r] - bounds[r]) < 1e-3);
  std::vector<float> odd(table.begin(), table.begin() + dim);
  odd[dim / 2] = std::numeric_limits<float>::quiet_NaN();
  rows[count - 1] = odd.data();
  isa.bound_rows(user.data(), rows, nullptr, count, dim, slack, least, found);
  CHECK(found[count - 1] == std::numeric_limits<float>::infinity());
}

void scores_alike(std::mt19937_64& random, const Primitives& isa, int64_t dim, int64_t rows) {
  const std::vector<float> table = noise(random, rows * dim);
  std::vector<float> tile(kTileRows * dim, 7.0f);
  const float* pointers[kTileRows];
  for (int64_t r = 0; r < rows; ++r) pointers[r] = table.data() + r * dim;
  isa.transpose_tile(pointers, random() % 2 ? pointers : nullptr, rows, dim, tile.data());
  for (int64_t d = 0; d < dim; ++d) {
    for (int64_t r = 0; r < kTileRows; ++r) {
      CHECK(tile[d * kTileRows + r] == (r < rows ? table[r * dim + d] : 0.0f));
    }
  }
  for (const int64_t users : {1, 3, 4, 5, 8, 9, 17}) {
    const std::vector<float> vectors = noise(random, users * dim);
    std::vector<float> out(users * kTileRows), resumed(users * kTileRows);
    isa.dot_tile(vectors.data(), users, dim, tile.data(), dim, false, out.data());
    const int64_t half = dim / 2;
    isa.dot_tile(vectors.data(), users, dim, tile.data(), half, false, resumed.data());
    isa.dot_tile(vectors.data() + half, users, dim, tile.data() + half * kTileRows, dim - half,
                 true, resumed.data());
    CHECK(resumed == out);
    std::vector<uint16_t> halves(dim * kTileRows);
    for (auto& value : halves) value = static_cast<uint16_t>(0x3000 + random() % 0x400);
    std::vector<float> widened(halves.size()), of_halves(out), expected(out);
    isa.decode_float16(halves.data(), widened.data(), dim * kTileRows);
    for (const bool accumulate : {true, false}) {
      isa.dot_float16_tile(vectors.data(), users, dim, halves.data(), dim, accumulate,
                           of_halves.data());
      isa.dot_tile(vectors.data(), users, dim, widened.data(), dim, accumulate, expected.data());
      CHECK(of_halves == expected);
    }
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
        isa.dot_tile(vectors.data() + u * dim, 1, dim, tile.data(), dim, false, alone);
        CHECK(alone[r] == out[u * kTileRows + r]);
      }
    }
    std::vector<float> thresholds(users);
    for (auto& threshold : thresholds) threshold = out[random() % out.size()];
    out[0] = std::nanf("");
    std::vector<uint32_t> masks(users);
    isa.reach_tile(out.data(), users, thresholds.data(), masks.data());
    for (int64_t u = 0; u < users; ++u) {
      for (int64_t r = 0; r < kTileRows; ++r) {
        CHECK((masks[u] >> r & 1u) == !(out[u * kTileRows + r] < thresholds[u]));
      }
    }
  }
}

void sums_alike(std::mt19937_64& random, const Primitives& isa, int64_t dim) {
  constexpr int64_t kLanes = peel::simd::kSumLanes;
  const std::vector<float> weights = noise(random, kTileRows),
                           tile = noise(random, dim * kTileRows);
  const std::vector<float> before = noise(random, dim * kLanes);
  std::vector<float> sums = before;
  isa.sum_tile(weights.data(), tile.data(), dim, sums.data());
  for (int64_t i = 0; i < dim * kLanes; ++i) {
    double exact = before[i], size = std::fabs(before[i]);
    for (int64_t r = i % kLanes; r < kTileRows; r += kLanes) {
      const double product = double(weights[r]) * double(tile[i / kLanes * kTileRows + r]);
      exact += product;
      size += std::fabs(product);
    }
    CHECK(std::fabs(sums[i] - exact) <= 3e-7 * size);
  }
}

void shares_alike(std::mt19937_64& random, const Primitives& isa) {
  std::uniform_real_distribution<float> uniform(-1, 0);
  for (const float least : {0.0f, 1e-6f, 0.1f, 1.0f, 20.0f, 87.0f}) {
    // Powers of two, so that exponents are exact.
    float dots[kTileRows], scales[kTileRows], shares[kTileRows];
    for (int64_t r = 0; r < kTileRows; ++r) {
      dots[r] = least * uniform(random);
      scales[r] = r % 2 ? 0.5f : 1.0f;
    }
    scales[3] = 0;  // not there
    dots[4] = -87.001f;
    dots[5] = -INFINITY;
    CHECK(isa.share_tile(dots, scales, 0, shares) == 0);
    CHECK(shares[3] == 0 && shares[4] == 0 && shares[5] == 0);
    for (int64_t r = 6; r < kTileRows; ++r) {
      const double exact = std::exp(double(dots[r] * scales[r]));
      CHECK(std::fabs(shares[r] - exact) <= 3e-7 * exact);
    }
    dots[7] = dots[9] = 2 * least + 4;
    CHECK(isa.share_tile(dots, scales, least + 1, shares) == (1u << 7 | 1u << 9));
    CHECK(isa.share_tile(dots, scales, least + 2, shares) == 0 && shares[7] == 1);
    CHECK(isa.share_tile(dots, scales, -INFINITY, shares) == ~(1u << 3 | 1u << 5));
  }
}

// Tiles hold byte j of all rows' planes side by side; row by row the answer is that of one row.
void decodes_tiles_alike(std::mt19937_64& random, const Primitives& isa, int64_t dim) {
  const std::vector<float> levels = noise(random, 256), scales = noise(random, kTileRows);
  const int64_t plane_bytes = (dim + 7) / 8;
  std::vector<uint8_t> bytes(8 * plane_bytes * kTileRows);
  for (auto& byte : bytes) byte = static_cast<uint8_t>(random());
  std::vector<float> tile(dim * kTileRows);
  for (int bits = 1; bits <= 8; ++bits) {
    const uint8_t* planes[8];
    for (int b = 0; b < bits; ++b) planes[b] = bytes.data() + b * plane_bytes * kTileRows;
    const auto code_of = [&](int64_t d, int64_t r, int known) {
      int code = 0;
      for (int b = 0; b < known; ++b) {
        code = code << 1 | (planes[b][d / 8 * kTileRows + r] >> (d % 8) & 1);
      }
      return code;
    };
    isa.decode_planes_tile(planes, bits, levels.data(), scales.data(), tile.data(), dim);
    for (int64_t d = 0; d < dim; ++d) {
      for (int64_t r = 0; r < kTileRows; ++r) {
        CHECK(tile[d * kTileRows + r] == levels[code_of(d, r, bits)] * scales[r]);
      }
    }
    if (bits > peel::simd::kBoundBits || 8 * plane_bytes > 256) continue;
    std::vector<uint8_t> steps(8 * plane_bytes * 16);
    for (auto& step : steps) step = static_cast<uint8_t>(random());
    // Powers of two, so that bounds are exact and the comparison is sharp.
    std::vector<float> exact(kTileRows, 0.5f), bounds(kTileRows);
    exact[3] = -0.5f;
    exact[4] = std::nanf("");
    for (int64_t r = 0; r < kTileRows; ++r) {
      int sum = 0;
      for (int64_t d = 0; d < 8 * plane_bytes; ++d) sum += steps[d * 16 + code_of(d, r, bits)];
      bounds[r] = exact[r] * (-32.0f + 0.25f * static_cast<float>(sum));
    }
    const float threshold = bounds[random() % 3];
    const uint32_t mask = isa.bound_tile(planes, bits, plane_bytes, steps.data(), 0.25f, -32.0f,
                                         exact.data(), threshold);
    for (int64_t r = 0; r < kTileRows; ++r) {
      CHECK((mask >> r & 1u) == (!(bounds[r] < threshold) || exact[r] < 0));
    }
  }
  std::vector<int8_t> values(dim * kTileRows);
  for (auto& value : values) value = static_cast<int8_t>(random());
  isa.decode_int8_tile(values.data(), scales.data(), tile.data(), dim);
  for (int64_t i = 0; i < dim * kTileRows; ++i) {
    CHECK(tile[i] == static_cast<float>(values[i]) * scales[i % kTileRows]);
  }
}

// Layers of `width` int8 values of which one, in the middle, is not held.
void scores_int8_alike(std::mt19937_64& random, const Primitives& isa, int64_t dim, int64_t width) {
  std::vector<int8_t> values(dim * kTileRows);
  for (auto& value : values) value = static_cast<int8_t>(random());
  std::vector<uint16_t> halves((dim + width - 1) / width * kTileRows);
  for (auto& half : halves) half = static_cast<uint16_t>(0x3000 + random() % 0x400);
  std::vector<float> tile(dim * kTileRows), scales(kTileRows);
  std::vector<peel::simd::Int8Layer> layers;
  const int64_t missing = (dim - 1) / width / 2;
  for (int64_t l = 0; l * width < dim; ++l) {
    if (l == missing && dim > width) continue;
    layers.push_back({values.data() + l * width * kTileRows, halves.data() + l * kTileRows,
                      l * width, std::min(width, dim - l * width)});
  }
  const auto count = static_cast<int64_t>(layers.size());
  for (const int64_t users : {1, 2, 3, 4, 5}) {
    const std::vector<float> vectors = noise(random, users * dim);
    std::vector<float> out(users * kTileRows), expected(users * kTileRows);
    isa.dot_int8_tile(vectors.data(), users, dim, layers.data(), count, out.data());
    for (const auto& layer : layers) {
      isa.decode_float16(layer.scales, scales.data(), kTileRows);
      isa.decode_int8_tile(layer.values, scales.data(), tile.data(), layer.width);
      isa.dot_tile(vectors.data() + layer.begin, users, dim, tile.data(), layer.width,
                   &layer != layers.data(), expected.data());
    }
    CHECK(out == expected);
  }
  // Small powers of two and whole numbers, so that bounds are exact and the comparison is sharp.
  for (auto& half : halves) half = static_cast<uint16_t>(0x3800 + 0x400 * (random() % 3));
  halves[5] |= 0x8000;
  halves[6] = 0x7e00;
  std::vector<uint32_t> words(dim);
  std::vector<int8_t> codes(dim);
  std::vector<int32_t> sums(dim);
  std::vector<float> slacks(dim, 0.0f), bounds(kTileRows, 0.0f);
  // Every product as large as it can be, with either sign of both.
  const bool extreme = random() % 4 == 0;
  const auto value = static_cast<int8_t>(random() % 2 ? -128 : 127);
  const int code = random() % 2 ? isa.max_code : -isa.max_code;
  if (extreme) std::fill(values.begin(), values.end(), value);
  for (int64_t d = 0; d < dim; ++d) {
    const auto range = static_cast<uint64_t>(2 * isa.max_code + 1);
    codes[d] = static_cast<int8_t>(static_cast<int>(random() % range) - isa.max_code);
    if (extreme) codes[d] = static_cast<int8_t>(code);
    slacks[d] = static_cast<float>(random() % 5);
  }
  for (const auto& layer : layers) {
    isa.pack_codes(codes.data() + layer.begin, layer.width, words.data() + layer.begin);
    sums[layer.begin] =
        std::accumulate(codes.begin() + layer.begin, codes.begin() + layer.begin + layer.width, 0);
    isa.decode_float16(layer.scales, scales.data(), kTileRows);
    for (int64_t r = 0; r < kTileRows; ++r) {
      int sum = 0;
      for (int64_t i = 0; i < layer.width; ++i) {
        sum += codes[layer.begin + i] * layer.values[i * kTileRows + r];
      }
      bounds[r] += scales[r] * (0.25f * static_cast<float>(sum) + slacks[layer.begin]);
    }
  }
  const float threshold = bounds[random() % 3];
  const uint32_t mask = isa.bound_int8_tile({words.data(), sums.data(), slacks.data(), 0.25f},
                                            layers.data(), count, threshold);
  for (int64_t r = 0; r < kTileRows; ++r) {
    const bool negative = r == 5 && layers[0].begin == 0;
    CHECK((mask >> r & 1u) == (!(bounds[r] < threshold) || negative));
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

// What the system lists as the processor's is what is found.
void the_processor_is_known() {
#if defined(PEEL_X86) && defined(__linux__)
  std::ifstream file("/proc/cpuinfo");
  std::string line;
  while (std::getline(file, line) && line.rfind("flags", 0) != 0) {
  }
  line += ' ';
  const auto has = [&](std::initializer_list<const char*> names) {
    return std::all_of(names.begin(), names.end(), [&](const std::string& name) {
      return line.find(" " + name + " ") != std::string::npos;
    });
  };
  const peel::Processor& found = peel::processor();
  const bool avx2 = has({"avx2", "fma", "f16c"});
  const bool avx512 = avx2 && has({"avx512f", "avx512bw", "avx512vl", "avx512dq"});
  CHECK(found.carryless_product == has({"pclmulqdq", "sse4_1"}));
  CHECK(found.avx2 == avx2);
  CHECK(found.wide_carryless_product == (avx2 && has({"pclmulqdq", "sse4_1", "vpclmulqdq"})));
  CHECK(found.avx512 == avx512);
  CHECK(found.avx512_vnni == (avx512 && has({"avx512_vnni", "avx512vbmi"})));
#endif
}

}  // namespace

int main() {
  the_processor_is_known();
  std::mt19937_64 random = seeded();
  halves_are_exact();
  int sets = 0;
  for (const Primitives* const* set = peel::simd::available(); *set; ++set, ++sets) {
    std::printf("instruction set %s\n", (*set)->name);
    CHECK(peel::simd::find((*set)->name) == *set);
    for (int round = 0; round < 100; ++round) shares_alike(random, **set);
    for (const int64_t dim : {1, 3, 7, 8, 9, 16, 17, 31, 32, 33, 63, 64, 65, 128, 200}) {
      decodes_alike(random, **set, dim);
      rotates_alike(random, **set, dim);
      decodes_tiles_alike(random, **set, dim);
      for (const int64_t width : {1, 8, 11, 300}) scores_int8_alike(random, **set, dim, width);
      sums_alike(random, **set, dim);
      for (const int64_t rows : {1, 5, 8, 16, 31, 32}) {
        scores_alike(random, **set, dim, rows);
        bounds_rows(random, **set, dim, rows);
      }
    }
  }
  CHECK(sets >= 1 && std::strcmp(peel::simd::available()[sets - 1]->name, "portable") == 0);
  CHECK(peel::simd::find("no such set") == nullptr);
}
