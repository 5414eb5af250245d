// The primitives that make tiles, and the bits of their codes. Included by body.h.

constexpr int64_t kLine = 16;  // floats

static void transpose_tile(const float* const* rows, const float* const* next, int64_t count,
                           int64_t dim, float* tile) {
  int64_t r = 0;
  for (; r + kLanes <= count; r += kLanes) {
    for (int64_t lane = 0; next && lane < kLanes; ++lane) {
      for (int64_t d = 0; d < dim; d += kLine) __builtin_prefetch(next[r + lane] + d);
    }
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
static inline void decode_planes_tile_of(const uint8_t* const* planes, const float* levels,
                                         const float* scales, float* tile, int64_t dim) {
  const LevelTable<kBits> table(levels);
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

static void decode_planes_tile(const uint8_t* const* planes, int bits, const float* levels,
                               const float* scales, float* tile, int64_t dim) {
  with_bits(bits, [&](auto width) {
    decode_planes_tile_of<decltype(width)::value>(planes, levels, scales, tile, dim);
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
