// The primitives that score tiles. Included by body.h.

static inline Vector load_values(const float* values) { return load(values); }
static inline Vector load_values(const uint16_t* halves) {
  float values[kLanes];
  widen_halves(halves, values, kLanes);
  return load(values);
}

template <int kUsers, int kVectors, typename Element>
static inline void dot_block(const float* users, int64_t user_stride, const Element* tile,
                             int64_t dim, bool accumulate, float* out) {
  Vector sums[kUsers][kVectors];
#pragma GCC unroll 8
  for (int u = 0; u < kUsers; ++u) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      sums[u][v] = accumulate ? load(out + u * kTileRows + v * kLanes) : Vector{};
    }
  }
  for (int64_t d = 0; d < dim; ++d) {
    Vector rows[kVectors];
    for (int v = 0; v < kVectors; ++v) rows[v] = load_values(tile + d * kTileRows + v * kLanes);
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
template <typename Element>
static inline void dot_values(const float* users, int64_t num_users, int64_t user_stride,
                              const Element* tile, int64_t dim, bool accumulate, float* out) {
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

static void dot_tile(const float* users, int64_t num_users, int64_t user_stride, const float* tile,
                     int64_t dim, bool accumulate, float* out) {
  dot_values(users, num_users, user_stride, tile, dim, accumulate, out);
}

static void dot_float16_tile(const float* users, int64_t num_users, int64_t user_stride,
                             const uint16_t* tile, int64_t dim, bool accumulate, float* out) {
  dot_values(users, num_users, user_stride, tile, dim, accumulate, out);
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
  const Vector shifted = PEEL_FMA(x, broadcast(1.44269504f), broadcast(kToNearest));
  const Vector n = shifted - kToNearest;
  Vector rest = PEEL_FMA(n, broadcast(-0.693359375f), x);
  rest = PEEL_FMA(n, broadcast(2.12194440e-4f), rest);
  Vector sum = broadcast(kSeries[0]);
  for (int i = 1; i < 8; ++i) sum = PEEL_FMA(sum, rest, broadcast(kSeries[i]));
  // n lies in the last bits of `shifted`; 2^n as bits.
  const Integers power = (reinterpret_cast<Integers>(shifted) << 23) + 0x3f800000u;
  return x < -87.0f ? Vector{} : sum * reinterpret_cast<Vector>(power);
}

static uint32_t share_tile(const float* dots, const float* scales, float most, float* shares) {
  uint32_t mask = 0;
  for (int64_t v = 0; v < kTileVectors; ++v) {
    const Vector scale = load(scales + v * kLanes);
    const Vector there = load(dots + v * kLanes) * scale - most;
    const Vector exponent = scale == 0.0f ? broadcast(-__builtin_inff()) : there;
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
