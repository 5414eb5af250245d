// The primitives on rows. Included by body.h.

static inline float scale_of(const PlanesRow& row) {
  uint16_t half;
  __builtin_memcpy(&half, row.scale, sizeof(half));
  return half_to_float(half);
}

#ifndef PEEL_PLANES_ROW
template <int kBits>
using RowLevels = LevelTable<kBits>;

#ifndef PEEL_SCALED_LEVELS
// The levels of a row.
template <int kBits>
struct ScaledLevels {
  const RowLevels<kBits>& table;
  Vector scales;

  ScaledLevels(const RowLevels<kBits>& levels, float scale)
      : table(levels), scales(broadcast(scale)) {}
  void at(const uint8_t* codes, float* out) const {  // of 32 codes
    for (int64_t i = 0; i < 32; i += kLanes) store(out + i, table.at(codes + i) * scales);
  }
};
#endif

// 32 values, from 4 bytes of each plane.
template <int kBits>
static inline void decode_piece(const ScaledLevels<kBits>& levels, const uint8_t* planes,
                                int64_t plane_bytes, float* out) {
  uint32_t words[kBits];
  for (int bit = 0; bit < kBits; ++bit)
    __builtin_memcpy(&words[bit], planes + bit * plane_bytes, 4);
  uint8_t codes[32];
  store_bytes(codes, expand<kBits>(words));
  levels.at(codes, out);
}

template <int kBits>
static inline void decode_planes_row(const RowLevels<kBits>& table, const PlanesRow& row,
                                     float scale, int64_t dim) {
  const int64_t plane_bytes = (dim + 7) / 8;
  const ScaledLevels<kBits> levels(table, scale);
  int64_t first = 0;
  for (; first + 32 <= dim; first += 32) {
    decode_piece(levels, row.planes + first / 8, plane_bytes, row.out + first);
  }
  if (first == dim) return;
  uint8_t planes[4 * kBits] = {};
  for (int64_t at = first / 8; at < plane_bytes; ++at) {
    for (int bit = 0; bit < kBits; ++bit) {
      planes[4 * bit + at - first / 8] = row.planes[bit * plane_bytes + at];
    }
  }
  float tail[32];
  decode_piece(levels, planes, 4, tail);
  __builtin_memcpy(row.out + first, tail, static_cast<size_t>(dim - first) * sizeof(float));
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

// Columns [j, j + kVectors * kLanes) of a rotation, for kRows rows: what is loaded of it serves
// all.
template <int kRows, int kVectors>
static inline void rotate_columns(const float* x, const float* rotation_t, float* out, int64_t dim,
                                  int64_t j) {
  const float* column = rotation_t + j;
  Vector sums[kRows][kVectors];
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) sums[r][v] = x[r * dim] * load(column + v * kLanes);
  }
  for (int64_t k = 1; k < dim; ++k) {
    for (int v = 0; v < kVectors; ++v) {
      const Vector some = load(column + k * dim + v * kLanes);
      for (int r = 0; r < kRows; ++r) sums[r][v] = sums[r][v] + x[r * dim + k] * some;
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) store(out + r * dim + j + v * kLanes, sums[r][v]);
  }
}

template <int kRows>
static inline void rotate_rows(const float* x, const float* rotation_t, float* out, int64_t dim) {
  constexpr int kVectors = kRows == 1 ? 4 : 2;  // enough sums that none waits for itself
  int64_t j = 0;
  for (; j + kVectors * kLanes <= dim; j += kVectors * kLanes) {
    rotate_columns<kRows, kVectors>(x, rotation_t, out, dim, j);
  }
  for (; j + kLanes <= dim; j += kLanes) rotate_columns<kRows, 1>(x, rotation_t, out, dim, j);
  if (j < dim && dim >= kLanes) {  // the last ones together with some before, which stay the same
    rotate_columns<kRows, 1>(x, rotation_t, out, dim, dim - kLanes);
    return;
  }
  for (; j < dim; ++j) {
    for (int r = 0; r < kRows; ++r) {
      float sum = x[r * dim] * rotation_t[j];
      for (int64_t k = 1; k < dim; ++k) sum = sum + x[r * dim + k] * rotation_t[k * dim + j];
      out[r * dim + j] = sum;
    }
  }
}

static void rotate(const float* x, int64_t count, const float* rotation_t, float* out,
                   int64_t dim) {
  int64_t r = 0;
  for (; r + 4 <= count; r += 4) rotate_rows<4>(x + r * dim, rotation_t, out + r * dim, dim);
  for (; r < count; ++r) rotate_rows<1>(x + r * dim, rotation_t, out + r * dim, dim);
}
