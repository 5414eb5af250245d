// From one stack to another. On x86-64 by hand: swapcontext makes a system call for each, and the
// address sanitizer clears its shadow of the whole stack, which took three quarters of the time.
#pragma once

#include <cstddef>
#include <cstdint>

#ifndef __x86_64__
#include <ucontext.h>
#endif

namespace peel::cuda_shim {

#ifdef __x86_64__

using Context = void*;  // the stack pointer; what a call preserves lies on the stack

asm(R"(
.text
.type peel_cuda_shim_switch, @function
peel_cuda_shim_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size peel_cuda_shim_switch, .-peel_cuda_shim_switch
)");
extern "C" void peel_cuda_shim_switch(Context* from, Context to);

inline void switch_stack(Context& from, Context& to) { peel_cuda_shim_switch(&from, to); }

// A context that begins with entry(), which never returns.
inline void make_context(Context& context, char* stack, size_t bytes, void (*entry)()) {
  const uintptr_t end = reinterpret_cast<uintptr_t>(stack + bytes) & ~uintptr_t{15};
  void** top = reinterpret_cast<void**>(end);
  *--top = nullptr;  // entry's return address, which also aligns its stack
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  context = top;
}

#else

using Context = ucontext_t;

inline void switch_stack(Context& from, Context& to) { swapcontext(&from, &to); }

inline void make_context(Context& context, char* stack, size_t bytes, void (*entry)()) {
  getcontext(&context);
  context.uc_stack.ss_sp = stack;
  context.uc_stack.ss_size = bytes;
  context.uc_link = nullptr;
  makecontext(&context, entry, 0);
}

#endif

}  // namespace peel::cuda_shim
