#include "tests/cuda_shim/cuda_shim.h"

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "tests/cuda_shim/stack_switch.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace peel::cuda_shim {
namespace {

constexpr size_t kStackBytes = 256 * 1024;
constexpr int kLanes = 32;

enum class State { kReady, kAtBarrier, kInCollective, kDone };

// Lives on from block to block: its stack is used again.
struct Fiber {
  Context context;
  std::unique_ptr<char[]> stack;
  void* fake_stack = nullptr;  // the address sanitizer's
  State state = State::kDone;
  uint3 index = {0, 0, 0};
  Collective what = Collective::kSync;
  unsigned mask = 0;
  uint64_t value = 0;
  int source = 0;
  uint64_t answer = 0;
};

std::vector<std::unique_ptr<Fiber>> fibers;
const std::function<void()>* body = nullptr;
Context scheduler;
[[maybe_unused]] const void* scheduler_stack = nullptr;
[[maybe_unused]] size_t scheduler_stack_bytes = 0;
int current = -1;
int block_size = 0;
int arrived = 0;
int votes = 0;
int last_votes = 0;
std::unique_ptr<char[]> shared_memory;

[[noreturn]] void fail(const char* message) {
  std::fprintf(stderr, "CUDA shim: block (%u, %u, %u), thread %d: %s\n", blockIdx.x, blockIdx.y,
               blockIdx.z, current, message);
  std::abort();
}

void leave(Fiber& fiber) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(&fiber.fake_stack, scheduler_stack, scheduler_stack_bytes);
#endif
  switch_stack(fiber.context, scheduler);
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(fiber.fake_stack, nullptr, nullptr);
#endif
}

void enter(int which) {
  Fiber& fiber = *fibers[static_cast<size_t>(which)];
  current = which;
  threadIdx = fiber.index;
#ifdef __SANITIZE_ADDRESS__
  void* fake_stack = nullptr;
  __sanitizer_start_switch_fiber(&fake_stack, fiber.stack.get(), kStackBytes);
#endif
  switch_stack(scheduler, fiber.context);
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
}

void run_fiber() {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_bytes);
#endif
  for (;;) {
    Fiber& self = *fibers[static_cast<size_t>(current)];
    (*body)();
    self.state = State::kDone;
    leave(self);
  }
}

void make_fibers(int count) {
  while (static_cast<int>(fibers.size()) < count) {
    auto fiber = std::make_unique<Fiber>();
    fiber->stack.reset(new char[kStackBytes]);
    make_context(fiber->context, fiber->stack.get(), kStackBytes, run_fiber);
    fibers.push_back(std::move(fiber));
  }
}

// Whether any lane of the warp ran; `done` counts those that have ended.
bool run_warp(int begin, bool backwards, int& done) {
  const int lanes = std::min(kLanes, block_size - begin);
  bool ran = false;
  for (int i = 0; i < lanes; ++i) {
    const int which = begin + (backwards ? lanes - 1 - i : i);
    const State& state = fibers[static_cast<size_t>(which)]->state;
    if (state != State::kReady) continue;
    enter(which);
    ran = true;
    done += state == State::kDone;
  }
  return ran;
}

void run_block() {
  arrived = votes = 0;
  for (int i = 0; i < block_size; ++i) {
    Fiber& fiber = *fibers[static_cast<size_t>(i)];
    const unsigned linear = static_cast<unsigned>(i);
    fiber.index = {linear % blockDim.x, linear / blockDim.x % blockDim.y,
                   linear / (blockDim.x * blockDim.y)};
    fiber.state = State::kReady;
  }
  // A warp runs on until it waits for others, and warps and lanes run forwards and backwards in
  // turn: what needs a barrier cannot rely on an order.
  const int warps = (block_size + kLanes - 1) / kLanes;
  int done = 0;
  for (int turn = 0; done < block_size; ++turn) {
    bool any_ran = false;
    for (int i = 0; i < warps; ++i) {
      const int begin = (turn % 2 ? warps - 1 - i : i) * kLanes;
      bool ran = true;
      for (int pass = turn; ran; ++pass) {
        ran = run_warp(begin, pass % 2 == 1, done);
        any_ran = any_ran || ran;
      }
    }
    if (!any_ran) fail("threads wait for others that never come");
  }
}

// The answer of every lane of `mask`, all of which have arrived.
void answer(int begin, unsigned mask, Collective what) {
  const auto lane_at = [&](int i) -> Fiber& { return *fibers[static_cast<size_t>(begin + i)]; };
  uint64_t all = what == Collective::kMin ? UINT64_MAX : 0;
  for (int i = 0; i < kLanes; ++i) {
    if (!(mask >> i & 1u)) continue;
    const uint64_t value = lane_at(i).value;
    if (what == Collective::kBallot) all |= value << i;
    if (what == Collective::kAdd) all += value;
    if (what == Collective::kMin) all = std::min(all, value);
    if (what == Collective::kMax) all = std::max(all, value);
  }
  for (int i = 0; i < kLanes; ++i) {
    if (!(mask >> i & 1u)) continue;
    Fiber& fiber = lane_at(i);
    fiber.answer = all;
    if (what == Collective::kShuffle) {
      if (!(mask >> fiber.source & 1u)) fail("a shuffle from a lane outside of its mask");
      fiber.answer = lane_at(fiber.source).value;
    }
    if (what == Collective::kMatch) {
      fiber.answer = 0;
      for (int j = 0; j < kLanes; ++j) {
        if ((mask >> j & 1u) && lane_at(j).value == fiber.value) fiber.answer |= uint64_t{1} << j;
      }
    }
    fiber.state = State::kReady;
  }
}

}  // namespace

void run_grid(dim3 grid, dim3 block, int64_t shared_bytes, const std::function<void()>& thread) {
  block_size = static_cast<int>(block.x * block.y * block.z);
  if (block_size < 1 || block_size > 1024) fail("a block of no or of more than 1024 threads");
  if (grid.y > 65535 || grid.z > 65535) fail("a grid of more than 65535 blocks in y or z");
  if (shared_bytes > 227 * 1024) fail("a block with more than 227 KiB of shared memory");
  make_fibers(block_size);
  body = &thread;
  blockDim = block;
  gridDim = grid;
  const uint64_t count = uint64_t{grid.x} * grid.y * grid.z;
  static bool backwards = false;
  backwards = !backwards;
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t at = backwards ? count - 1 - i : i;
    blockIdx = {static_cast<unsigned>(at % grid.x), static_cast<unsigned>(at / grid.x % grid.y),
                static_cast<unsigned>(at / grid.x / grid.y)};
    shared_memory.reset(new char[static_cast<size_t>(shared_bytes)]);
    std::memset(shared_memory.get(), 0xcb, static_cast<size_t>(shared_bytes));
    run_block();
  }
}

void* dynamic_shared() { return shared_memory.get(); }

int lane() { return current % kLanes; }

int barrier(bool vote) {
  votes += vote;
  Fiber& self = *fibers[static_cast<size_t>(current)];
  if (++arrived < block_size) {
    self.state = State::kAtBarrier;
    leave(self);
    return last_votes;
  }
  last_votes = votes;
  arrived = votes = 0;
  for (int i = 0; i < block_size; ++i) fibers[static_cast<size_t>(i)]->state = State::kReady;
  return last_votes;
}

uint64_t collective(Collective what, unsigned mask, uint64_t value, int source) {
  if (!(mask >> lane() & 1u)) fail("a warp collective without its caller");
  Fiber& self = *fibers[static_cast<size_t>(current)];
  self.state = State::kInCollective;
  self.what = what;
  self.mask = mask;
  self.value = value;
  self.source = source;
  const int begin = current - lane();
  bool complete = true;
  for (int i = 0; i < kLanes && complete; ++i) {
    if (!(mask >> i & 1u)) continue;
    if (begin + i >= block_size) fail("a warp collective with a lane that is not there");
    const Fiber& other = *fibers[static_cast<size_t>(begin + i)];
    complete = other.state == State::kInCollective && other.mask == mask;
    if (complete && other.what != what) fail("lanes in different warp collectives");
  }
  if (complete) {
    answer(begin, mask, what);
  } else {
    leave(self);
  }
  return self.answer;
}

}  // namespace peel::cuda_shim
