// The one body of the primitives, over the steps of one instruction set:
//   lookup16(table, codes)       table[code] of 32 codes below 16
//   CentroidTable<bits>.at       centroids of kLanes codes
//   expand<bits>(words)          32 codes from 4 bytes of each plane
//   widen_halves, widen_int8, widen_shorts   to float, exactly
//   widen_int8_shorts            to 16 bits
//   transpose_square
//   reach, above, equal          comparisons of kLanes values, as bits
//   pack_values, pack_positions  the picked ones of kLanes, moved to the front
// included inside the anonymous namespace of its translation unit (vectors.h). A set that brings
// only lookup16 defines PEEL_PORTABLE_STEPS.

#ifdef PEEL_PORTABLE_STEPS
#include "simd/portable_steps.h"
#endif

// Calls f with the number of bits, 1 to 8, as a type.
template <int kBits>
struct Bits {
  static constexpr int value = kBits;
};
template <typename F>
static inline void with_bits(int bits, F&& f) {
  // clang-format off
  switch (bits) {
    case 1: return f(Bits<1>{});
    case 2: return f(Bits<2>{});
    case 3: return f(Bits<3>{});
    case 4: return f(Bits<4>{});
    case 5: return f(Bits<5>{});
    case 6: return f(Bits<6>{});
    case 7: return f(Bits<7>{});
    default: return f(Bits<8>{});
  }
  // clang-format on
}

constexpr uint32_t kLaneMask = (1u << kLanes) - 1;

// ---- one row ----

template <int kBits>
static inline void decode_planes_of(const uint8_t* const* planes, const float* centroids,
                                    float scale, float* out, int64_t dim) {
  const CentroidTable<kBits> table(centroids);
  const Vector scales = broadcast(scale);
  for (int64_t first = 0; first < dim; first += 32) {
    const int64_t count = dim - first < 32 ? dim - first : 32;
    uint32_t words[kBits] = {};
    for (int bit = 0; bit < kBits; ++bit) {
      if (count == 32) {
        __builtin_memcpy(&words[bit], planes[bit] + first / 8, 4);
      } else {
        __builtin_memcpy(&words[bit], planes[bit] + first / 8,
                         static_cast<size_t>((count + 7) / 8));
      }
    }
    uint8_t codes[32];
    store_bytes(codes, expand<kBits>(words));
    float tail[32];
    float* to = count == 32 ? out + first : tail;
    for (int64_t lane = 0; lane < 32; lane += kLanes) {
      store(to + lane, table.at(codes + lane) * scales);
    }
    if (count < 32) __builtin_memcpy(out + first, tail, static_cast<size_t>(count) * sizeof(float));
  }
}

static void decode_planes(const uint8_t* const* planes, int bits, const float* centroids,
                          float scale, float* out, int64_t dim) {
  with_bits(bits, [&](auto width) {
    decode_planes_of<decltype(width)::value>(planes, centroids, scale, out, dim);
  });
}

static void decode_int8(const int8_t* values, float scale, float* out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) out[i] = static_cast<float>(values[i]) * scale;
}

static void decode_float16(const uint16_t* values, float* out, int64_t count) {
  widen_halves(values, out, count);
}

// Columns [j, j + kVectors * kLanes) of a rotation.
template <int kVectors>
static inline void rotate_columns(const float* x, const float* rotation_t, float* out, int64_t dim,
                                  int64_t j) {
  const float* column = rotation_t + j;
  Vector sums[kVectors];
  for (int v = 0; v < kVectors; ++v) sums[v] = x[0] * load(column + v * kLanes);
  for (int64_t k = 1; k < dim; ++k) {
    for (int v = 0; v < kVectors; ++v)
      sums[v] = sums[v] + x[k] * load(column + k * dim + v * kLanes);
  }
  for (int v = 0; v < kVectors; ++v) store(out + j + v * kLanes, sums[v]);
}

static void rotate(const float* x, const float* rotation_t, float* out, int64_t dim) {
  int64_t j = 0;
  for (; j + 4 * kLanes <= dim; j += 4 * kLanes) rotate_columns<4>(x, rotation_t, out, dim, j);
  for (; j + kLanes <= dim; j += kLanes) rotate_columns<1>(x, rotation_t, out, dim, j);
  for (; j < dim; ++j) {
    float sum = x[0] * rotation_t[j];
    for (int64_t k = 1; k < dim; ++k) sum = sum + x[k] * rotation_t[k * dim + j];
    out[j] = sum;
  }
}

// ---- tiles ----

static void transpose_tile(const float* const* rows, int64_t count, int64_t dim, float* tile) {
  int64_t r = 0;
  for (; r + kLanes <= count; r += kLanes) {
    int64_t d = 0;
    for (; d + kLanes <= dim; d += kLanes) transpose_square(rows + r, d, tile + d * kTileRows + r);
    for (; d < dim; ++d) {
      for (int64_t lane = 0; lane < kLanes; ++lane)
        tile[d * kTileRows + r + lane] = rows[r + lane][d];
    }
  }
  for (; r < kTileRows; ++r) {
    for (int64_t d = 0; d < dim; ++d) tile[d * kTileRows + r] = r < count ? rows[r][d] : 0.0f;
  }
}

// Bit b of every byte of `high` above the same bit of `low`: the codes of bit positions 0, 2, 4, 6
// (even) and 1, 3, 5, 7 (odd) as fields of two bits; then the same with fields of four.
static inline Bytes shift_left(Bytes bytes, int by) {
  return reinterpret_cast<Bytes>(reinterpret_cast<Words>(bytes) << by);
}
static inline Bytes shift_right(Bytes bytes, int by) {
  return reinterpret_cast<Bytes>(reinterpret_cast<Words>(bytes) >> by);
}
static inline Bytes interleave_low(Bytes high, Bytes low, uint8_t mask, int by) {
  return (low & mask) | shift_left(high & mask, by);
}
static inline Bytes interleave_high(Bytes high, Bytes low, uint8_t mask, int by) {
  return (shift_right(low, by) & mask) | (high & static_cast<uint8_t>(~mask));
}

// Fields of four bits from the bytes of four planes, most significant first: fields[k] holds
// coordinate k in its low and k + 4 in its high nibbles, k < 4.
static inline void interleave(Bytes p0, Bytes p1, Bytes p2, Bytes p3, Bytes* fields) {
  const Bytes even_high = interleave_low(p0, p1, 0x55, 1);
  const Bytes odd_high = interleave_high(p0, p1, 0x55, 1);
  const Bytes even_low = interleave_low(p2, p3, 0x55, 1);
  const Bytes odd_low = interleave_high(p2, p3, 0x55, 1);
  fields[0] = interleave_low(even_high, even_low, 0x33, 2);
  fields[2] = interleave_high(even_high, even_low, 0x33, 2);
  fields[1] = interleave_low(odd_high, odd_low, 0x33, 2);
  fields[3] = interleave_high(odd_high, odd_low, 0x33, 2);
}

// The fields of the last four of `bits` planes (planes above them are zero) at byte j.
static inline void fields_of(const uint8_t* const* planes, int bits, int64_t j, Bytes* fields) {
  Bytes p[4];
  for (int b = 0; b < 4; ++b) {
    const int plane = bits - 4 + b;
    p[b] = plane < 0 ? Bytes{} : load_bytes(planes[plane] + j * kTileRows);
  }
  interleave(p[0], p[1], p[2], p[3], fields);
}

template <int kBits>
static inline void decode_planes_tile_of(const uint8_t* const* planes, const float* centroids,
                                         const float* scales, float* tile, int64_t dim) {
  const CentroidTable<kBits> table(centroids);
  Vector scale[kTileVectors];
  for (int64_t v = 0; v < kTileVectors; ++v) scale[v] = load(scales + v * kLanes);
  for (int64_t j = 0; j < (dim + 7) / 8; ++j) {
    Bytes low[4], high[4] = {};
    fields_of(planes, kBits, j, low);
    if constexpr (kBits > 4) fields_of(planes, kBits - 4, j, high);
    uint8_t codes[8][32];
    for (int k = 0; k < 4; ++k) {
      store_bytes(codes[k], (low[k] & 0x0f) | shift_left(high[k] & 0x0f, 4));
      store_bytes(codes[k + 4], (shift_right(low[k], 4) & 0x0f) | (high[k] & 0xf0));
    }
    const int64_t count = dim - 8 * j < 8 ? dim - 8 * j : 8;
    for (int64_t k = 0; k < count; ++k) {
      float* to = tile + (8 * j + k) * kTileRows;
      for (int64_t v = 0; v < kTileVectors; ++v) {
        store(to + v * kLanes, table.at(codes[k] + v * kLanes) * scale[v]);
      }
    }
  }
}

static void decode_planes_tile(const uint8_t* const* planes, int bits, const float* centroids,
                               const float* scales, float* tile, int64_t dim) {
  with_bits(bits, [&](auto width) {
    decode_planes_tile_of<decltype(width)::value>(planes, centroids, scales, tile, dim);
  });
}

static void decode_int8_tile(const int8_t* values, const float* scales, float* tile,
                             int64_t width) {
  Vector scale[kTileVectors];
  for (int64_t v = 0; v < kTileVectors; ++v) scale[v] = load(scales + v * kLanes);
  for (int64_t i = 0; i < width; ++i) {
    for (int64_t v = 0; v < kTileVectors; ++v) {
      const int64_t at = i * kTileRows + v * kLanes;
      store(tile + at, widen_int8(values + at) * scale[v]);
    }
  }
}

template <int kUsers, int kVectors>
static inline void dot_block(const float* users, int64_t user_stride, const float* tile,
                             int64_t dim, bool accumulate, float* out) {
  Vector sums[kUsers][kVectors] = {};
  for (int u = 0; u < kUsers && accumulate; ++u) {
    for (int v = 0; v < kVectors; ++v) sums[u][v] = load(out + u * kTileRows + v * kLanes);
  }
  for (int64_t d = 0; d < dim; ++d) {
    Vector rows[kVectors];
    for (int v = 0; v < kVectors; ++v) rows[v] = load(tile + d * kTileRows + v * kLanes);
    for (int u = 0; u < kUsers; ++u) {
      const Vector user = broadcast(users[u * user_stride + d]);
      for (int v = 0; v < kVectors; ++v) sums[u][v] = PEEL_FMA(user, rows[v], sums[u][v]);
    }
  }
  for (int u = 0; u < kUsers; ++u) {
    for (int v = 0; v < kVectors; ++v) store(out + u * kTileRows + v * kLanes, sums[u][v]);
  }
}

// As many users at once as keep the accumulators in registers and the multipliers busy.
static void dot_tile(const float* users, int64_t num_users, int64_t user_stride, const float* tile,
                     int64_t dim, bool accumulate, float* out) {
  constexpr int kVectors = 2;
  constexpr int kUsers = PEEL_VECTOR_BYTES == 64 ? 8 : 4;
  int64_t u = 0;
  for (; u + kUsers <= num_users; u += kUsers) {
    for (int64_t column = 0; column < kTileRows; column += kVectors * kLanes) {
      dot_block<kUsers, kVectors>(users + u * user_stride, user_stride, tile + column, dim,
                                  accumulate, out + u * kTileRows + column);
    }
  }
  for (; u < num_users; ++u) {
    constexpr int kWide = kTileVectors < 4 ? kTileVectors : 4;
    for (int64_t column = 0; column < kTileRows; column += kWide * kLanes) {
      dot_block<1, kWide>(users + u * user_stride, user_stride, tile + column, dim, accumulate,
                          out + u * kTileRows + column);
    }
  }
}

template <int kUsers, int kVectors>
static inline void dot_int8_block(const float* users, int64_t user_stride, const Int8Layer* layers,
                                  int64_t num_layers, int64_t column, float* out) {
  Vector sums[kUsers][kVectors] = {};
  for (int64_t l = 0; l < num_layers; ++l) {
    const Int8Layer& layer = layers[l];
    float halves[kVectors * kLanes];
    widen_halves(layer.scales + column, halves, kVectors * kLanes);
    Vector scales[kVectors];
    for (int v = 0; v < kVectors; ++v) scales[v] = load(halves + v * kLanes);
    for (int64_t i = 0; i < layer.width; ++i) {
      Vector rows[kVectors];
      for (int v = 0; v < kVectors; ++v) {
        rows[v] = widen_int8(layer.values + i * kTileRows + column + v * kLanes) * scales[v];
      }
      for (int u = 0; u < kUsers; ++u) {
        const Vector user = broadcast(users[u * user_stride + layer.begin + i]);
        for (int v = 0; v < kVectors; ++v) sums[u][v] = PEEL_FMA(user, rows[v], sums[u][v]);
      }
    }
  }
  for (int u = 0; u < kUsers; ++u) {
    for (int v = 0; v < kVectors; ++v) store(out + u * kTileRows + column + v * kLanes, sums[u][v]);
  }
}

static void dot_int8_tile(const float* users, int64_t num_users, int64_t user_stride,
                          const Int8Layer* layers, int64_t num_layers, float* out) {
  constexpr int kVectors = kTileVectors < 4 ? kTileVectors : 4;
  for (int64_t column = 0; column < kTileRows; column += kVectors * kLanes) {
    int64_t u = 0;
    for (; u + 2 <= num_users; u += 2) {
      dot_int8_block<2, kVectors>(users + u * user_stride, user_stride, layers, num_layers, column,
                                  out + u * kTileRows);
    }
    if (u < num_users) {
      dot_int8_block<1, kVectors>(users + u * user_stride, user_stride, layers, num_layers, column,
                                  out + u * kTileRows);
    }
  }
}

// The sums of all steps, two rows a word: even rows in `even`, odd ones in `odd`.
template <int kBits>
static inline void sum_steps(const uint8_t* const* planes, int64_t plane_bytes,
                             const uint8_t* steps, Words* even, Words* odd) {
  // Until the end, sums of even rows carry 256 times their odd neighbour's, modulo 2^16.
  Words both = {}, high = {};
  const auto add = [&](Bytes found) {
    const Words words = reinterpret_cast<Words>(found);
    both += words;
    high += words >> 8;
  };
  for (int64_t j = 0; j < plane_bytes; ++j, steps += 8 * 16) {
    Bytes fields[4];
    fields_of(planes, kBits, j, fields);
    for (int k = 0; k < 4; ++k) {
      add(lookup16(steps + 16 * k, fields[k] & 0x0f));
      add(lookup16(steps + 16 * (k + 4), shift_right(fields[k], 4) & 0x0f));
    }
  }
  *even = both - (high << 8);
  *odd = high;
}

static uint32_t bound_tile(const uint8_t* const* planes, int bits, int64_t plane_bytes,
                           const uint8_t* steps, float step, float base, const float* scales,
                           float threshold) {
  Words even, odd;
  with_bits(bits, [&](auto width) {
    constexpr int kBits = decltype(width)::value < kBoundBits ? decltype(width)::value : kBoundBits;
    sum_steps<kBits>(planes, plane_bytes, steps, &even, &odd);
  });
  float bounds[kTileRows];
  for (int i = 0; i < 16; ++i) {
    bounds[2 * i] = static_cast<float>(even[i]);
    bounds[2 * i + 1] = static_cast<float>(odd[i]);
  }
  uint32_t mask = 0;
  for (int64_t v = 0; v < kTileVectors; ++v) {
    const Vector scale = load(scales + v * kLanes);
    store(bounds + v * kLanes, scale * (load(bounds + v * kLanes) * step + base));
    mask |= reach(bounds + v * kLanes, threshold) << (v * kLanes);
    // A scale below zero bounds nothing; one that is not a number fails the comparison above.
    mask |= (reach(scales + v * kLanes, 0.0f) ^ kLaneMask) << (v * kLanes);
  }
  return mask;
}

// words[r] = sum of user[d] * values[d, r] over `count` coordinates, at most 8.
static inline void sum_products(const int32_t* user, const int8_t* values, int64_t count,
                                int16_t* words) {
  Shorts sums[kTileShorts] = {};
  for (int64_t i = 0; i < count; ++i) {
    const auto code = reinterpret_cast<Shorts>(user[i] - Ints{});
    for (int64_t v = 0; v < kTileShorts; ++v) {
      sums[v] += widen_int8_shorts(values + i * kTileRows + v * kShortLanes) * code;
    }
  }
  for (int64_t v = 0; v < kTileShorts; ++v) {
    *reinterpret_cast<UnalignedShorts*>(words + v * kShortLanes) = sums[v];
  }
}

static uint32_t bound_int8_tile(const int32_t* user, float step, const float* slacks,
                                const Int8Layer* layers, int64_t num_layers, float threshold) {
  const Vector steps = broadcast(step);
  Vector bounds[kTileVectors] = {};
  Shorts signs[kTileShorts] = {};  // of the scales
  for (int64_t l = 0; l < num_layers; ++l) {
    const Int8Layer& layer = layers[l];
    float scales[kTileRows];
    widen_halves(layer.scales, scales, kTileRows);
    for (int64_t v = 0; v < kTileShorts; ++v) {
      const auto* halves = layer.scales + v * kShortLanes;
      signs[v] |= reinterpret_cast<Shorts>(*reinterpret_cast<const UnalignedShorts*>(halves));
    }
    Vector slack = broadcast(slacks[layer.begin]);
    for (int64_t i = 0; i < layer.width; i += 8, slack = Vector{}) {
      const int32_t* part = user + layer.begin + i;
      const int8_t* values = layer.values + i * kTileRows;
      int16_t words[kTileRows];
      if (layer.width - i >= 8) {
        sum_products(part, values, 8, words);
      } else {
        sum_products(part, values, layer.width - i, words);
      }
      for (int64_t v = 0; v < kTileVectors; ++v) {
        const Vector total = PEEL_FMA(widen_shorts(words + v * kLanes), steps, slack);
        bounds[v] = PEEL_FMA(load(scales + v * kLanes), total, bounds[v]);
      }
    }
  }
  uint32_t mask = 0;
  for (int64_t v = 0; v < kTileVectors; ++v) {
    float lanes[kLanes];
    store(lanes, bounds[v]);
    mask |= reach(lanes, threshold) << (v * kLanes);
  }
  int16_t words[kTileRows];
  for (int64_t v = 0; v < kTileShorts; ++v) {
    *reinterpret_cast<UnalignedShorts*>(words + v * kShortLanes) = signs[v];
  }
  for (int64_t r = 0; r < kTileRows; ++r) mask |= static_cast<uint32_t>(words[r] < 0) << r;
  return mask;
}

static void reach_tile(const float* scores, int64_t num_users, const float* thresholds,
                       uint32_t* masks) {
  for (int64_t u = 0; u < num_users; ++u) {
    uint32_t mask = 0;
    for (int64_t v = 0; v < kTileVectors; ++v) {
      mask |= reach(scores + u * kTileRows + v * kLanes, thresholds[u]) << (v * kLanes);
    }
    masks[u] = mask;
  }
}

// Of exp, from the power of 7 down.
constexpr float kSeries[8] = {1.0f / 5040, 1.0f / 720, 1.0f / 120, 1.0f / 24,
                              1.0f / 6,    1.0f / 2,   1.0f,       1.0f};

// For exponents of at most 0.
static inline Vector exp_of(Vector x) {
  constexpr float kToNearest = 12582912.0f;  // 1.5 * 2^23: a float added to it loses its fraction
  // x = n log 2 + rest; the first part of log 2 has few bits, so that n times it is exact.
  const Vector shifted = PEEL_FMA(x, Vector{} + 1.44269504f, Vector{} + kToNearest);
  const Vector n = shifted - kToNearest;
  Vector rest = PEEL_FMA(n, Vector{} - 0.693359375f, x);
  rest = PEEL_FMA(n, Vector{} + 2.12194440e-4f, rest);
  Vector sum = Vector{} + kSeries[0];
  for (int i = 1; i < 8; ++i) sum = PEEL_FMA(sum, rest, Vector{} + kSeries[i]);
  // n lies in the last bits of `shifted`; 2^n as bits.
  const Integers power = (reinterpret_cast<Integers>(shifted) << 23) + 0x3f800000u;
  return x < -87.0f ? Vector{} : sum * reinterpret_cast<Vector>(power);
}

static uint32_t share_tile(const float* dots, const float* scales, float most, float* shares) {
  uint32_t mask = 0;
  for (int64_t v = 0; v < kTileVectors; ++v) {
    const Vector scale = load(scales + v * kLanes);
    const Vector there = load(dots + v * kLanes) * scale - most;
    const Vector exponent = scale == 0.0f ? Vector{} - __builtin_inff() : there;
    float exponents[kLanes];
    store(exponents, exponent);
    mask |= above(exponents, 0.0f) << (v * kLanes);
    store(shares + v * kLanes, exp_of(exponent));
  }
  return mask;
}

static void sum_tile(const float* weights, const float* tile, int64_t dim, float* sums) {
  constexpr int64_t kVectors = kSumLanes / kLanes;
  Vector weight[kTileVectors];
  for (int64_t v = 0; v < kTileVectors; ++v) weight[v] = load(weights + v * kLanes);
  for (int64_t d = 0; d < dim; ++d, tile += kTileRows, sums += kSumLanes) {
    Vector sum[kVectors];
    for (int64_t v = 0; v < kVectors; ++v) sum[v] = load(sums + v * kLanes);
    for (int64_t v = 0; v < kTileVectors; ++v) {
      sum[v % kVectors] = PEEL_FMA(weight[v], load(tile + v * kLanes), sum[v % kVectors]);
    }
    for (int64_t v = 0; v < kVectors; ++v) store(sums + v * kLanes, sum[v]);
  }
}

// ---- selection ----

static int64_t collect_between(const float* values, int64_t count, float low, float high,
                               float* out, WindowCounts* counts) {
  int64_t found = 0, over = 0, at_high = 0, at_low = 0, i = 0;
  uint32_t odd = 0;  // lanes that compare with nothing
  Vector most = broadcast(counts->largest);
  for (; i + kLanes <= count; i += kLanes) {
    const Vector now = load(values + i);
    most = now > most ? now : most;
    const uint32_t above_high = above(values + i, high), equal_high = equal(values + i, high);
    const uint32_t above_low = above(values + i, low), equal_low = equal(values + i, low);
    odd |= reach(values + i, low) & ~(above_low | equal_low);
    over += __builtin_popcount(above_high);
    at_high += __builtin_popcount(equal_high);
    at_low += __builtin_popcount(equal_low);
    const uint32_t between = above_low & ~(above_high | equal_high);
    pack_values(values + i, between, out + found);
    found += __builtin_popcount(between);
  }
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    if (most[lane] > counts->largest) counts->largest = most[lane];
  }
  for (; i < count; ++i) {
    const float now = values[i];
    odd |= static_cast<uint32_t>(now != now);
    if (now > counts->largest) counts->largest = now;
    over += now > high;
    at_high += now == high;
    at_low += now == low;
    if (now > low && now < high) out[found++] = now;
  }
  counts->above += over;
  counts->at_high += at_high;
  if (low < high) counts->at_low += at_low;
  counts->nan |= odd != 0;
  return found;
}

static int64_t collect_from(const float* values, int64_t count, float threshold, int64_t* ties,
                            uint32_t* out) {
  int64_t found = 0, i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    uint32_t picked = above(values + i, threshold);
    uint32_t same = equal(values + i, threshold);
    for (; same && *ties > 0; same &= same - 1, --*ties) picked |= same & -same;
    pack_positions(static_cast<uint32_t>(i), picked, out + found);
    found += __builtin_popcount(picked);
  }
  for (; i < count; ++i) {
    const bool same = values[i] == threshold && *ties > 0;
    *ties -= same;
    if (values[i] > threshold || same) out[found++] = static_cast<uint32_t>(i);
  }
  return found;
}

#define PEEL_PRIMITIVES(name)                                         \
  {name,        decode_planes,  decode_int8,        decode_float16,   \
   rotate,      transpose_tile, decode_planes_tile, decode_int8_tile, \
   dot_tile,    dot_int8_tile,  bound_tile,         bound_int8_tile,  \
   reach_tile,  share_tile,     sum_tile,           collect_between,  \
   collect_from}
