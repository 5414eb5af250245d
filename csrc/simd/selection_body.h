// The primitives of selection. Included by body.h.

static int64_t collect_between(const float* values, int64_t count, float low, float high,
                               float* out, WindowCounts* counts) {
  int64_t found = 0, over = 0, at_high = 0, at_low = 0, i = 0;
  uint32_t odd = 0;  // lanes that compare with nothing
  Vector most = broadcast(counts->largest);
  for (; i + kLanes <= count; i += kLanes) {
    const Vector now = load(values + i);
    most = now > most ? now : most;
    const uint32_t above_high = above(values + i, high), equal_high = equal(values + i, high);
    const uint32_t above_low = above(values + i, low), equal_low = equal(values + i, low);
    odd |= reach(values + i, low) & ~(above_low | equal_low);
    over += __builtin_popcount(above_high);
    at_high += __builtin_popcount(equal_high);
    at_low += __builtin_popcount(equal_low);
    const uint32_t between = above_low & ~(above_high | equal_high);
    pack_values(values + i, between, out + found);
    found += __builtin_popcount(between);
  }
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    if (most[lane] > counts->largest) counts->largest = most[lane];
  }
  for (; i < count; ++i) {
    const float now = values[i];
    odd |= static_cast<uint32_t>(now != now);
    if (now > counts->largest) counts->largest = now;
    over += now > high;
    at_high += now == high;
    at_low += now == low;
    if (now > low && now < high) out[found++] = now;
  }
  counts->above += over;
  counts->at_high += at_high;
  if (low < high) counts->at_low += at_low;
  counts->nan |= odd != 0;
  return found;
}

static int64_t collect_from(const float* values, int64_t count, float threshold, int64_t* ties,
                            uint32_t* out) {
  int64_t found = 0, i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    uint32_t picked = above(values + i, threshold);
    uint32_t same = equal(values + i, threshold);
    for (; same && *ties > 0; same &= same - 1, --*ties) picked |= same & -same;
    pack_positions(static_cast<uint32_t>(i), picked, out + found);
    found += __builtin_popcount(picked);
  }
  for (; i < count; ++i) {
    const bool same = values[i] == threshold && *ties > 0;
    *ties -= same;
    if (values[i] > threshold || same) out[found++] = static_cast<uint32_t>(i);
  }
  return found;
}
