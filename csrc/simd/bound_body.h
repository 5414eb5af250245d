// The primitives that bound the scores of tiles; after tile_body.h. Included by body.h.

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
