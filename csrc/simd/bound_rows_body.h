// The primitive that bounds the scores of dense rows: memory that is read in order comes by itself.
// After tile_body.h. Included by body.h.

// A row of fewer values than a vector, zeros behind them.
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

// Sums [kLanes] of the products of kLanes rows of kVectors vectors. Eight rows are read by
// instructions of their own: with sixteen, an instruction is back only pages later, and Zen 4
// foretells no memory then.
template <int kVectors>
static void multiply_short_rows(const float* user, const float* const* rows, Vector slacks,
                                Vector* sums) {
#pragma GCC unroll 8
  for (int64_t r = 0; r < kLanes; ++r) {
    sums[r] = add_products<kVectors>(user, rows[r], slacks, Vector{});
  }
}

// The same of rows of any length.
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
