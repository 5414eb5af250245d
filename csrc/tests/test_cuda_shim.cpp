// The host shim does what the kernels rely on.
#include <vector>

#include "check.h"
#include "device_memory.h"

namespace {

using namespace peel;
using cuda::kFullWarp;

// Each thread hands a value to its mirror image, twice, so that one barrier too few shows.
__global__ void mirror(const int* in, int* out) {
  int* values = static_cast<int*>(cuda::dynamic_shared());
  const unsigned mine = threadIdx.x;
  const unsigned other = blockDim.x - 1 - mine;
  const unsigned at = blockIdx.x * blockDim.x;
  values[mine] = in[at + mine];
  __syncthreads();
  const int theirs = values[other];
  __syncthreads();
  values[mine] = theirs + 1;
  __syncthreads();
  out[at + mine] = values[other];
}

__global__ void sum_warps(const int* in, int* out, int count) {
  __shared__ int sums[8];
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  const unsigned lane = threadIdx.x % 32;
  int value = i < static_cast<unsigned>(count) ? in[i] : 0;
  for (unsigned delta = 16; delta > 0; delta /= 2) {
    value += __shfl_down_sync(kFullWarp, value, delta);
  }
  if (lane == 0) sums[threadIdx.x / 32] = value;
  __syncthreads();
  if (threadIdx.x == 0) {
    int total = 0;
    for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) total += sums[warp];
    atomicAdd(out, total);
  }
}

// A whole warp shuffles, then half of it: no lane sees what another hands over later.
__global__ void narrowing(int* out) {
  const int lane = static_cast<int>(threadIdx.x);
  const int left = __shfl_sync(kFullWarp, lane, (lane + 1) % 32);
  int half = -1;
  if (lane < 16) half = __shfl_xor_sync(0xffffu, lane + 100, 1);
  out[lane] = left;
  out[32 + lane] = half;
  out[64 + lane] = static_cast<int>(__ballot_sync(kFullWarp, lane % 3 == 0));
  out[96 + lane] = __any_sync(kFullWarp, lane == 31) + 2 * __all_sync(kFullWarp, lane < 31);
  out[128 + lane] = static_cast<int>(__match_any_sync(kFullWarp, lane % 16));
  out[160 + lane] = __shfl_up_sync(kFullWarp, lane, 3, 8);
  out[192 + lane] = static_cast<int>(__reduce_add_sync(kFullWarp, static_cast<unsigned>(lane)));
}

__global__ void offend(uint64_t* offenders) {
  const int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x;
  if (i % 7 == 5) cuda::report(offenders, cuda::kGroups, i, -i);
  cuda::report(offenders, cuda::kNan, (int64_t{1} << 33) + i, INT64_MAX);
}

void barriers_wait_for_every_thread() {
  std::vector<int> in(3 * 96);
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<int>(i * i);
  DeviceArray<int> from(in), to(static_cast<int64_t>(in.size()));
  cuda::launch(mirror, 3, 96, 96 * sizeof(int), nullptr, from.data(), to.data());
  std::vector<int> want = in;
  for (int& value : want) ++value;
  CHECK(to.read() == want);
}

void shuffles_and_atomics_sum() {
  for (const int count : {0, 1, 31, 32, 33, 1000}) {
    std::vector<int> in(static_cast<size_t>(count));
    int want = 0;
    for (int i = 0; i < count; ++i) want += in[static_cast<size_t>(i)] = 3 * i - 7;
    DeviceArray<int> from(in), to(1);
    cuda::launch(sum_warps, cuda::blocks_for(count, 256), 256, 0, nullptr, from.data(), to.data(),
                 count);
    CHECK(to.read()[0] == want);
  }
}

void collectives_of_parts_of_a_warp() {
  DeviceArray<int> to(7 * 32);
  cuda::launch(narrowing, 1, 32, 0, nullptr, to.data());
  const std::vector<int> got = to.read();
  for (int lane = 0; lane < 32; ++lane) {
    const int* at = got.data() + lane;
    CHECK(at[0] == (lane + 1) % 32);
    CHECK(at[32] == (lane < 16 ? (lane ^ 1) + 100 : -1));
    CHECK(at[64] == 0x49249249);
    CHECK(at[96] == 1);
    CHECK(at[128] == (0x10001 << lane % 16));
    CHECK(at[160] == (lane % 8 < 3 ? lane : lane - 3));
    CHECK(at[192] == 496);
  }
}

void the_first_offender_stays() {
  const std::vector<uint64_t> got = run_on_device(0, [](const cuda::Launch& launch) {
    cuda::launch(offend, 2, 64, 0, nullptr, launch.offenders);
  });
  std::vector<uint64_t> want = kNoOffenders;
  want[cuda::kGroups] = offender(5, -5);
  want[cuda::kNan] = offender(0xffffffff, INT32_MAX);
  CHECK(got == want);
}

}  // namespace

int main() {
  barriers_wait_for_every_thread();
  shuffles_and_atomics_sum();
  collectives_of_parts_of_a_warp();
  the_first_offender_stays();
}
