// The steps of the primitives in plain C++, for instruction sets that bring none of their own.
// Included inside an anonymous namespace, after the vector types. One that brings its own expand
// defines PEEL_OWN_EXPANSION; its own widening and comparisons, PEEL_OWN_WIDENING.

// What every code of kBits bits stands for.
template <int kBits>
struct LevelTable {
  const float* values;
  explicit LevelTable(const float* levels) : values(levels) {}
  Vector at(const uint8_t* codes) const {
    Vector result;
    for (int64_t lane = 0; lane < kLanes; ++lane) result[lane] = values[codes[lane]];
    return result;
  }
};

#ifndef PEEL_OWN_EXPANSION
// 32 codes of 32 coordinates, from 4 bytes of each plane, most significant first.
template <int kBits>
static inline Bytes expand(const uint32_t* words) {
  uint8_t codes[32];
  for (int d = 0; d < 32; ++d) {
    unsigned code = 0;
    for (int bit = 0; bit < kBits; ++bit) code = code << 1 | (words[bit] >> d & 1u);
    codes[d] = static_cast<uint8_t>(code);
  }
  return load_bytes(codes);
}
#endif

#ifndef PEEL_OWN_WIDENING
static inline void widen_halves(const uint16_t* halves, float* out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) out[i] = half_to_float(halves[i]);
}

static inline Vector widen_int8(const int8_t* values) {
  Vector result;
  for (int64_t lane = 0; lane < kLanes; ++lane) result[lane] = static_cast<float>(values[lane]);
  return result;
}

static inline Totals widen_shorts(const int16_t* values) {
  Totals result;
  for (int64_t lane = 0; lane < kLanes; ++lane) result[lane] = values[lane];
  return result;
}

static inline Shorts widen_int8_shorts(const int8_t* values) {
  Shorts result;
  for (int64_t lane = 0; lane < kShortLanes; ++lane) result[lane] = values[lane];
  return result;
}

// The square of kLanes rows and as many columns, turned.
static inline void transpose_square(const float* const* rows, int64_t column, float* tile) {
  for (int64_t d = 0; d < kLanes; ++d) {
    for (int64_t r = 0; r < kLanes; ++r) tile[d * kTileRows + r] = rows[r][column + d];
  }
}

// Lane r: the sum of the lanes of sums[r].
static inline Vector sum_rows(const Vector* sums) {
  Vector result;
  for (int64_t r = 0; r < kLanes; ++r) {
    float sum = 0;
    for (int64_t lane = 0; lane < kLanes; ++lane) sum += sums[r][lane];
    result[r] = sum;
  }
  return result;
}

// Bit i: not (values[i] < threshold).
static inline uint32_t reach(const float* values, float threshold) {
  uint32_t mask = 0;
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    mask |= static_cast<uint32_t>(!(values[lane] < threshold)) << lane;
  }
  return mask;
}

// Of kLanes values those above or at a bound, as bits.
static inline uint32_t above(const float* values, float bound) {
  uint32_t mask = 0;
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    mask |= static_cast<uint32_t>(values[lane] > bound) << lane;
  }
  return mask;
}
static inline uint32_t equal(const float* values, float bound) {
  uint32_t mask = 0;
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    mask |= static_cast<uint32_t>(values[lane] == bound) << lane;
  }
  return mask;
}
#endif

// The picked ones of kLanes values, packed to the front of `out`, which has room for all.
static inline void pack_values(const float* values, uint32_t mask, float* out) {
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    *out = values[lane];
    out += mask >> lane & 1u;
  }
}
static inline void pack_positions(uint32_t first, uint32_t mask, uint32_t* out) {
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    *out = first + static_cast<uint32_t>(lane);
    out += mask >> lane & 1u;
  }
}
