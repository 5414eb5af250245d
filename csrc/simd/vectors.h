// The vector types of one instruction set. Each translation unit defines PEEL_VECTOR_BYTES, then
// includes this and its steps inside its own anonymous namespace, then body.h. No std:: templates
// and no inline functions with linkage here: a weak symbol compiled for one instruction set could
// replace another's.

typedef float Vector __attribute__((vector_size(PEEL_VECTOR_BYTES)));
typedef uint32_t Integers __attribute__((vector_size(PEEL_VECTOR_BYTES)));
typedef int32_t Totals __attribute__((vector_size(PEEL_VECTOR_BYTES)));
typedef float UnalignedVector
    __attribute__((vector_size(PEEL_VECTOR_BYTES), aligned(4), may_alias));

// The byte elements of a tile are worked on 32 at a time by every instruction set.
typedef uint8_t Bytes __attribute__((vector_size(32)));
typedef uint8_t UnalignedBytes __attribute__((vector_size(32), aligned(1), may_alias));
typedef uint16_t Words __attribute__((vector_size(32)));
typedef uint16_t UnalignedWords __attribute__((vector_size(32), aligned(2), may_alias));

// Signed 16-bit lanes.
typedef int16_t Shorts __attribute__((vector_size(PEEL_VECTOR_BYTES)));
typedef int16_t UnalignedShorts
    __attribute__((vector_size(PEEL_VECTOR_BYTES), aligned(2), may_alias));

constexpr int64_t kLanes = PEEL_VECTOR_BYTES / 4;
constexpr int64_t kTileVectors = kTileRows / kLanes;
constexpr int64_t kShortLanes = PEEL_VECTOR_BYTES / 2;
constexpr int64_t kTileShorts = kTileRows / kShortLanes;

static inline Vector load(const float* from) {
  return *reinterpret_cast<const UnalignedVector*>(from);
}
static inline void store(float* to, Vector value) {
  *reinterpret_cast<UnalignedVector*>(to) = value;
}
static inline Bytes load_bytes(const uint8_t* from) {
  return *reinterpret_cast<const UnalignedBytes*>(from);
}
static inline void store_bytes(uint8_t* to, Bytes value) {
  *reinterpret_cast<UnalignedBytes*>(to) = value;
}
// A load that fills a register; zero plus the value would be an addition, as it turns -0 into 0.
static inline Vector broadcast(float value) { return value - Vector{}; }
