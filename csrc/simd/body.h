// The one body of the primitives. Each instruction set's translation unit defines PEEL_VECTOR_BYTES
// and PEEL_FMA(a, b, c), then includes this inside its own anonymous namespace. No std:: templates
// and no inline functions with linkage here: a weak symbol compiled for one instruction set could
// replace another's.

typedef float Vector __attribute__((vector_size(PEEL_VECTOR_BYTES)));
typedef float UnalignedVector
    __attribute__((vector_size(PEEL_VECTOR_BYTES), aligned(4), may_alias));

constexpr int64_t kLanes = PEEL_VECTOR_BYTES / 4;

static inline Vector load(const float* from) {
  return *reinterpret_cast<const UnalignedVector*>(from);
}
static inline void store(float* to, Vector value) {
  *reinterpret_cast<UnalignedVector*>(to) = value;
}

// Spreads the 8 bits of a byte over 8 bytes, bit d to byte d, each 0 or 1.
static inline uint64_t spread(uint8_t byte) {
  const uint64_t copies = byte * 0x0101010101010101ull;
  const uint64_t picked = copies & 0x8040201008040201ull;
  return (picked + 0x7f7f7f7f7f7f7f7full) >> 7 & 0x0101010101010101ull;
}

static void decode_planes(const uint8_t* const* planes, int bits, const float* centroids,
                          float scale, float* out, int64_t dim) {
  for (int64_t first = 0; first < dim; first += 8) {
    uint64_t codes = 0;
    for (int bit = 0; bit < bits; ++bit) codes = codes << 1 | spread(planes[bit][first / 8]);
    const int64_t count = dim - first < 8 ? dim - first : 8;
    for (int64_t d = 0; d < count; ++d) {
      out[first + d] = centroids[codes >> (8 * d) & 0xff] * scale;
    }
  }
}

static void decode_int8(const int8_t* values, float scale, float* out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) out[i] = static_cast<float>(values[i]) * scale;
}

static void decode_float16(const uint16_t* values, float* out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) out[i] = half_to_float(values[i]);
}

static void rotate(const float* x, const float* rotation_t, float* out, int64_t dim) {
  int64_t j = 0;
  for (; j + kLanes <= dim; j += kLanes) {
    Vector sum = x[0] * load(rotation_t + j);
    for (int64_t k = 1; k < dim; ++k) sum = sum + x[k] * load(rotation_t + k * dim + j);
    store(out + j, sum);
  }
  for (; j < dim; ++j) {
    float sum = x[0] * rotation_t[j];
    for (int64_t k = 1; k < dim; ++k) sum = sum + x[k] * rotation_t[k * dim + j];
    out[j] = sum;
  }
}

static void transpose(const float* rows, int64_t stride, int64_t count, int64_t dim, float* tile) {
  for (int64_t d = 0; d < dim; ++d) {
    float* lane = tile + d * kTileRows;
    for (int64_t r = 0; r < count; ++r) lane[r] = rows[r * stride + d];
    for (int64_t r = count; r < kTileRows; ++r) lane[r] = 0.0f;
  }
}

template <int kUsers, int kVectors>
static inline void dot_block(const float* users, int64_t user_stride, const float* tile,
                             int64_t dim, float* out) {
  Vector sums[kUsers][kVectors] = {};
  for (int64_t d = 0; d < dim; ++d) {
    Vector rows[kVectors];
    for (int v = 0; v < kVectors; ++v) rows[v] = load(tile + d * kTileRows + v * kLanes);
    for (int u = 0; u < kUsers; ++u) {
      const Vector user = Vector{} + users[u * user_stride + d];
      for (int v = 0; v < kVectors; ++v) sums[u][v] = PEEL_FMA(user, rows[v], sums[u][v]);
    }
  }
  for (int u = 0; u < kUsers; ++u) {
    for (int v = 0; v < kVectors; ++v) store(out + u * kTileRows + v * kLanes, sums[u][v]);
  }
}

static void dot_tile(const float* users, int64_t num_users, int64_t user_stride, const float* tile,
                     int64_t dim, float* out) {
  constexpr int kVectors = 2;
  constexpr int64_t kWidth = kVectors * kLanes;
  for (int64_t column = 0; column < kTileRows; column += kWidth) {
    int64_t u = 0;
    for (; u + 4 <= num_users; u += 4) {
      dot_block<4, kVectors>(users + u * user_stride, user_stride, tile + column, dim,
                             out + u * kTileRows + column);
    }
    for (; u < num_users; ++u) {
      dot_block<1, kVectors>(users + u * user_stride, user_stride, tile + column, dim,
                             out + u * kTileRows + column);
    }
  }
}
