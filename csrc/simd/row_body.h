// The primitives on rows. Included by body.h.

static inline float scale_of(const PlanesRow& row) {
  uint16_t half;
  __builtin_memcpy(&half, row.scale, sizeof(half));
  return half_to_float(half);
}

#ifndef PEEL_PLANES_ROW
template <int kBits>
using RowLevels = LevelTable<kBits>;

template <int kBits>
static inline void decode_planes_row(const RowLevels<kBits>& table, const PlanesRow& row,
                                     float scale, int64_t dim) {
  const int64_t plane_bytes = (dim + 7) / 8;
  const Vector scales = broadcast(scale);
  for (int64_t first = 0; first < dim; first += 32) {
    const int64_t count = dim - first < 32 ? dim - first : 32;
    const auto bytes = static_cast<size_t>((count + 7) / 8);
    uint32_t words[kBits] = {};
    for (int bit = 0; bit < kBits; ++bit) {
      const uint8_t* from = row.planes + bit * plane_bytes + first / 8;
      if (count == 32) {
        __builtin_memcpy(&words[bit], from, 4);
      } else {
        __builtin_memcpy(&words[bit], from, bytes);
      }
    }
    uint8_t codes[32];
    store_bytes(codes, expand<kBits>(words));
    float tail[32];
    float* to = count == 32 ? row.out + first : tail;
    for (int64_t lane = 0; lane < 32; lane += kLanes) {
      store(to + lane, table.at(codes + lane) * scales);
    }
    if (count < 32) {
      __builtin_memcpy(row.out + first, tail, static_cast<size_t>(count) * sizeof(float));
    }
  }
}
#endif

template <int kBits>
static inline void decode_planes_of(const PlanesRow* rows, const PlanesRow* next, int64_t count,
                                    const float* levels, int64_t dim) {
  const RowLevels<kBits> table(levels);
  for (int64_t r = 0; r < count; ++r) {
    if (next) {
      const int64_t bytes = kBits * ((dim + 7) / 8);
      for (int64_t at = 0; at < bytes; at += 128) __builtin_prefetch(next[r].planes + at);
      __builtin_prefetch(next[r].planes + bytes - 1);  // a short row may lie over two lines
      __builtin_prefetch(next[r].scale);
    }
    decode_planes_row(table, rows[r], scale_of(rows[r]), dim);
  }
}

static void decode_planes(const PlanesRow* rows, const PlanesRow* next, int64_t count, int bits,
                          const float* levels, int64_t dim) {
  with_bits(bits, [&](auto width) {
    decode_planes_of<decltype(width)::value>(rows, next, count, levels, dim);
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
