// The primitives that bound the scores of tiles; after tile_body.h. Included by body.h.

// The last coordinates of a row, zeros behind them.
static inline Vector load_some(const float* from, int64_t count) {
  float values[kLanes] = {};
  __builtin_memcpy(values, from, static_cast<size_t>(count) * sizeof(float));
  return load(values);
}

// Adds the products of kVectors vectors of a row to its sum.
template <int kVectors>
static inline Vector add_products(const float* user, const float* row, Vector slacks, Vector sum) {
#pragma GCC unroll 16
  for (int64_t v = 0; v < kVectors; ++v) {
    const Vector x = load(row + v * kLanes);
    sum = PEEL_FMA(x, PEEL_FMA(x, slacks, load(user + v * kLanes)), sum);
  }
  return sum;
}

// Sums [kLanes] of the products of kLanes rows of kVectors vectors. Eight rows at a time are read
// by instructions of their own: with more, an instruction is back only pages later, and some
// processors foretell no memory then.
template <int kVectors>
static void multiply_short_rows(const float* user, const float* const* rows, Vector slacks,
                                Vector* sums) {
  constexpr int kRows = 8 < kLanes ? 8 : kLanes;
#pragma GCC unroll 1
  for (int64_t first = 0; first < kLanes; first += kRows) {
#pragma GCC unroll 8
    for (int64_t r = first; r < first + kRows; ++r) {
      sums[r] = add_products<kVectors>(user, rows[r], slacks, Vector{});
    }
  }
}

// The same of rows of any length, each from end to end: so memory comes by itself.
static void multiply_rows(const float* user, const float* const* rows, int64_t dim, float slack,
                          Vector* sums) {
  constexpr int kVectors = kLine / kLanes;
  const Vector slacks = broadcast(slack);
  // The last values of a row are read with some before them, which count nothing then.
  const int64_t rest = dim % kLanes, last = dim < kLanes ? 0 : dim - kLanes;
  float last_user[kLanes] = {}, last_slacks[kLanes] = {};
  for (int64_t d = dim - rest; d < dim; ++d) {
    last_user[d - last] = user[d];
    last_slacks[d - last] = slack;
  }
#pragma GCC unroll 1
  for (int64_t r = 0; r < kLanes; ++r) {
    const float* row = rows[r];
    Vector parts[4] = {};  // that need not wait for each other
    int64_t d = 0;
    for (; d + 4 * kLine <= dim; d += 4 * kLine) {
#pragma GCC unroll 4
      for (int64_t i = 0; i < 4; ++i) {
        const int64_t at = d + i * kLine;
        parts[i] = add_products<kVectors>(user + at, row + at, slacks, parts[i]);
      }
    }
    Vector sum = (parts[0] + parts[1]) + (parts[2] + parts[3]);
    for (; d + kLanes <= dim; d += kLanes) sum = add_products<1>(user + d, row + d, slacks, sum);
    if (rest) {
      const Vector x = dim < kLanes ? load_some(row, dim) : load(row + last);
      sum = PEEL_FMA(x, PEEL_FMA(x, load(last_slacks), load(last_user)), sum);
    }
    sums[r] = sum;
  }
}

// Of kLanes rows.
static inline Vector bound_some(const float* user, const float* const* rows, int64_t dim,
                                float slack, float least) {
  const Vector slacks = broadcast(slack);
  Vector sums[kLanes];
  if (dim == kLine) {
    multiply_short_rows<kLine / kLanes>(user, rows, slacks, sums);
  } else if (dim == 2 * kLine) {
    multiply_short_rows<2 * kLine / kLanes>(user, rows, slacks, sums);
  } else if (dim == 3 * kLine) {
    multiply_short_rows<3 * kLine / kLanes>(user, rows, slacks, sums);
  } else if (dim == 4 * kLine) {
    multiply_short_rows<4 * kLine / kLanes>(user, rows, slacks, sums);
  } else {
    multiply_rows(user, rows, dim, slack, sums);
  }
  const Vector bounds = sum_rows(sums) + least;
  const Vector infinite = broadcast(__builtin_inff());
  return bounds < infinite ? bounds : infinite;
}

static void bound_rows(const float* user, const float* const* rows, const float* const* next,
                       int64_t count, int64_t dim, float slack, float least, float* bounds) {
  for (int64_t r = 0; r < count; r += kLanes) {
    const float* last[kLanes];
    const float* const* some = rows + r;
    if (count - r < kLanes) {  // the last one again
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        last[lane] = rows[r + lane < count ? r + lane : count - 1];
      }
      some = last;
    }
    for (int64_t lane = 0; next && lane < kLanes && r + lane < count; ++lane) {
      for (int64_t d = 0; d < dim; d += kLine) __builtin_prefetch(next[r + lane] + d);
    }
    store(bounds + r, bound_some(user, some, dim, slack, least));
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

#ifndef PEEL_INT8_PRODUCTS
// The largest code: 8 products with an int8 value fit into 16 bits.
constexpr int kMaxCode = 31;

// As 16 bits, twice over.
static void pack_codes(const int8_t* codes, int64_t count, uint32_t* words) {
  for (int64_t i = 0; i < count; ++i) {
    words[i] = static_cast<uint16_t>(static_cast<int16_t>(codes[i])) * 0x10001u;
  }
}

// words[r] = sum of user[d] * values[d, r] over `count` coordinates, at most 8.
static inline void sum_a_few(const uint32_t* user, const int8_t* values, int64_t count,
                             int16_t* words) {
  Shorts sums[kTileShorts] = {};
  for (int64_t i = 0; i < count; ++i) {
    const auto code = reinterpret_cast<Shorts>(user[i] - Integers{});
    for (int64_t v = 0; v < kTileShorts; ++v) {
      sums[v] += widen_int8_shorts(values + i * kTileRows + v * kShortLanes) * code;
    }
  }
  for (int64_t v = 0; v < kTileShorts; ++v) {
    *reinterpret_cast<UnalignedShorts*>(words + v * kShortLanes) = sums[v];
  }
}

// totals[r] = sum of code[d] * values[d, r] over a layer, whose codes add up to `sum`.
static inline void sum_products(const uint32_t* user, int32_t, const int8_t* values, int64_t width,
                                Totals* totals) {
  for (int64_t v = 0; v < kTileVectors; ++v) totals[v] = Totals{};
  for (int64_t i = 0; i < width; i += 8) {
    int16_t words[kTileRows];
    if (width - i >= 8) {
      sum_a_few(user + i, values + i * kTileRows, 8, words);
    } else {
      sum_a_few(user + i, values + i * kTileRows, width - i, words);
    }
    for (int64_t v = 0; v < kTileVectors; ++v) totals[v] += widen_shorts(words + v * kLanes);
  }
}
#endif

static uint32_t bound_int8_tile(const Int8User& user, const Int8Layer* layers, int64_t num_layers,
                                float threshold) {
  const Vector steps = broadcast(user.step);
  Vector bounds[kTileVectors];
  Shorts signs[kTileShorts];  // of the scales
  // One by one: GCC clears a whole array with an instruction that costs a twentieth of all this.
  for (int64_t v = 0; v < kTileVectors; ++v) bounds[v] = Vector{};
  for (int64_t v = 0; v < kTileShorts; ++v) signs[v] = Shorts{};
  for (int64_t l = 0; l < num_layers; ++l) {
    const Int8Layer& layer = layers[l];
    float scales[kTileRows];
    widen_halves(layer.scales, scales, kTileRows);
    for (int64_t v = 0; v < kTileShorts; ++v) {
      const auto* halves = layer.scales + v * kShortLanes;
      signs[v] |= reinterpret_cast<Shorts>(*reinterpret_cast<const UnalignedShorts*>(halves));
    }
    Totals totals[kTileVectors];
    sum_products(user.words + layer.begin, user.sums[layer.begin], layer.values, layer.width,
                 totals);
    const Vector slack = broadcast(user.slacks[layer.begin]);
    for (int64_t v = 0; v < kTileVectors; ++v) {
      const Vector total = PEEL_FMA(__builtin_convertvector(totals[v], Vector), steps, slack);
      bounds[v] = PEEL_FMA(load(scales + v * kLanes), total, bounds[v]);
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
