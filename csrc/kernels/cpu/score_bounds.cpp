#include "kernels/cpu/score_bounds.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace peel {
namespace {

// Up to this many users: for more, scoring decoded tiles, or int8 values as they lie, is cheaper.
constexpr int64_t kUsers = 4;
constexpr int64_t kInt8Users = 1;
constexpr int64_t kRows = 256;  // with fewer, making the bounds costs more than they save
// So that 16 bits hold the sum of the steps, and 32 bits the sums of products.
constexpr int64_t kMaxDim = 256;
constexpr int64_t kMaxInt8Dim = 4096;
constexpr int kCodes = 1 << simd::kBoundBits;

}  // namespace

ScoreBounds::ScoreBounds(const PackedTiles& tiles, const float* users, int64_t num_users,
                         int64_t user_stride) {
  const PackedTable& table = tiles.table();
  const Geometry& geometry = table.geometry;
  if (num_users > kUsers) return;
  num_users_ = static_cast<size_t>(num_users);
  if (geometry.layout == Layout::kColumns) {
    const bool bounded = geometry.value_type == ValueType::kInt8 && geometry.dim <= kMaxInt8Dim;
    if (!bounded || table.num_rows < kRows || num_users > kInt8Users) return;
    for (int64_t u = 0; u < num_users; ++u) {
      int8_bounds_.push_back(make_int8_bound(tiles, users + u * user_stride));
    }
    return;
  }
  if (geometry.dim > kMaxDim) return;
  int64_t rows[kMaxBits + 1] = {};
  int64_t first = 0;
  for (int64_t c = 0; c < table.num_item_groups; ++c) {
    rows[geometry.bits_of(table.directory[c].layers)] += table.directory[c].row_end - first;
    first = table.directory[c].row_end;
  }
  for (int bits = 1; bits <= kMaxBits; ++bits) {
    if (rows[bits] < kRows) continue;
    for (int64_t u = 0; u < num_users; ++u) {
      bounds_[bits].push_back(make_bound(table, users + u * user_stride, bits));
    }
  }
}

ScoreBounds::Bound ScoreBounds::make_bound(const PackedTable& table, const float* user, int bits) {
  // The least and the largest level among the codes that begin alike.
  const float* levels = levels_of(table.levels, bits);
  const int known = std::min(bits, simd::kBoundBits);
  float least[kCodes], largest[kCodes], size = 0;
  for (int code = 0; code < 1 << known; ++code) {
    const float* begin = levels + (code << (bits - known));
    const float* end = begin + (1 << (bits - known));
    least[code] = *std::min_element(begin, end);
    largest[code] = *std::max_element(begin, end);
    size = std::max({size, std::fabs(least[code]), std::fabs(largest[code])});
  }
  const int64_t dim = table.geometry.dim;
  std::vector<float> most(static_cast<size_t>(dim * kCodes));
  std::vector<float> floors(static_cast<size_t>(dim));
  float widest = 0;
  double base = 0, magnitude = 0;
  for (int64_t d = 0; d < dim; ++d) {
    float* row = most.data() + d * kCodes;
    float low = std::numeric_limits<float>::infinity(), high = -low;
    for (int code = 0; code < 1 << known; ++code) {
      row[code] = std::max(user[d] * least[code], user[d] * largest[code]);
      low = std::min(low, row[code]);
      high = std::max(high, row[code]);
    }
    floors[static_cast<size_t>(d)] = low;
    widest = std::max(widest, high - low);
    base += low;
    magnitude += std::fabs(static_cast<double>(user[d])) * size;
  }
  Bound bound;
  bound.steps.resize(static_cast<size_t>(8 * table.geometry.plane_bytes() * kCodes));
  bound.step = widest / 255 * (1 + 1e-6f);
  const float inverse = bound.step > 0 ? 1 / bound.step : 0;
  for (int64_t d = 0; d < dim; ++d) {
    for (int code = 0; code < 1 << known; ++code) {
      const float above =
          most[static_cast<size_t>(d * kCodes + code)] - floors[static_cast<size_t>(d)];
      // Rounded up, without a call; the minimum of a number and none is the number.
      const float exactly = std::min(255.0f, above * inverse);
      const int32_t below = static_cast<int32_t>(exactly);
      bound.steps[static_cast<size_t>(d * kCodes + code)] =
          static_cast<uint8_t>(below + (static_cast<float>(below) < exactly ? 1 : 0));
    }
  }
  // Room for the roundings of the score and of the bound, each at most 2^-24 of the magnitude.
  const double roundings = static_cast<double>(4 * dim + 64) * 0x1p-24;
  bound.base = static_cast<float>(base + roundings * magnitude);
  // That holds where neither steps nor sums leave the range of normal floats, whatever the scale.
  const double largest_scale = 65504;
  if (magnitude != 0 && !(magnitude > 1e-30 && magnitude * largest_scale < 1e37)) {
    bound.base = std::numeric_limits<float>::infinity();
    bound.step = 0;
  }
  return bound;
}

// With u = step * code + error, sum u v is at most step * sum code v + sum |error| * 128.
ScoreBounds::Int8Bound ScoreBounds::make_int8_bound(const PackedTiles& tiles, const float* user) {
  const Geometry& geometry = tiles.table().geometry;
  const auto dim = static_cast<size_t>(geometry.dim);
  Int8Bound bound;
  bound.words.resize(dim);
  bound.sums.resize(dim);
  bound.slacks.resize(dim, std::numeric_limits<float>::infinity());
  float largest = 0;
  for (size_t d = 0; d < dim; ++d) largest = std::max(largest, std::fabs(user[d]));
  const double sum = std::accumulate(user, user + dim, 0.0);
  // That the roundings below are relative holds within the range of normal floats only.
  if (!std::isfinite(sum) || (largest != 0 && !(largest > 1e-28f && largest < 1e28f))) return bound;
  const double most = 128;  // an int8 value
  bound.step = largest / static_cast<float>(tiles.isa().max_code);
  const float inverse = bound.step > 0 ? 1 / bound.step : 0;
  const double roundings = static_cast<double>(4 * dim + 64) * 0x1p-24;
  std::vector<int8_t> codes(dim);
  for (int32_t layer = 0; layer < geometry.num_layers; ++layer) {
    const int64_t begin = geometry.layer_begin(layer);
    const int64_t width = geometry.layer_width(layer);
    double slack = 0;
    for (int64_t d = begin; d < begin + width; ++d) {
      const float code = std::round(user[d] * inverse);
      codes[static_cast<size_t>(d)] = static_cast<int8_t>(code);
      bound.sums[static_cast<size_t>(begin)] += codes[static_cast<size_t>(d)];
      const double size = std::fabs(static_cast<double>(user[d]));
      slack += most * (std::fabs(user[d] - static_cast<double>(bound.step) * code) +
                       roundings * (size + bound.step));
    }
    tiles.isa().pack_codes(codes.data() + begin, width, bound.words.data() + begin);
    bound.slacks[static_cast<size_t>(begin)] = static_cast<float>(slack);
  }
  return bound;
}

uint32_t ScoreBounds::may_reach(const PackedTiles::Reader& reader,
                                const std::vector<float>& thresholds, int few) const {
  uint32_t rows = 0;
  for (size_t u = 0; u < int8_bounds_.size(); ++u) {
    const Int8Bound& bound = int8_bounds_[u];
    const simd::Int8User user = {bound.words.data(), bound.sums.data(), bound.slacks.data(),
                                 bound.step};
    rows |= reader.bound_int8(user, thresholds[u]);
  }
  if (!int8_bounds_.empty()) return rows;
  const std::vector<Bound>& bounds = bounds_[reader.bits()];
  if (bounds.empty()) return ~0u;
  for (size_t u = 0; u < num_users_; ++u) {
    if (rows && __builtin_popcount(rows) > few) break;
    const Bound& bound = bounds[u];
    rows |= reader.bound(bound.steps.data(), bound.step, bound.base, thresholds[u]);
  }
  return rows;
}

}  // namespace peel
