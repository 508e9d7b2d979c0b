// CUDA on a CPU, as far as kernels of jaxrnn.Fused need it: every thread of a block is a
// fiber, and all of them run to the next barrier before one goes on. Blocks run in turn.
// In which order threads run must not matter; `backwards` is another order.

#include <math.h>
#include <string.h>
#include <ucontext.h>

#define __device__
#define __global__
#define __shared__
#define __launch_bounds__(threads, blocks)
#define __align__(bytes) __attribute__((aligned(bytes)))

struct Index { int x; };
static Index threadIdx, blockIdx;
__align__(16) unsigned char shared_memory[1 << 20];

static ucontext_t scheduler, fibers[1024];
static bool ended[1024];
static char stacks[1024][1 << 14];
static union { float single; double wide; } exchanged[1024];

static void barrier() {
  const int me = threadIdx.x;
  swapcontext(&fibers[me], &scheduler);
  threadIdx.x = me;
}
static inline void __syncthreads() { barrier(); }
static inline void __syncwarp() { barrier(); }
static inline float __shfl_xor_sync(unsigned, float x, int other) {
  exchanged[threadIdx.x].single = x;
  barrier();
  const float found = exchanged[threadIdx.x ^ other].single;
  barrier();
  return found;
}
static inline double __shfl_xor_sync(unsigned, double x, int other) {
  exchanged[threadIdx.x].wide = x;
  barrier();
  const double found = exchanged[threadIdx.x ^ other].wide;
  barrier();
  return found;
}
static inline float __uint_as_float(unsigned bits) { float x; memcpy(&x, &bits, 4); return x; }
static inline float __int_as_float(int bits) { return __uint_as_float(bits); }
static inline unsigned __float_as_uint(float x) { unsigned bits; memcpy(&bits, &x, 4); return bits; }
double fmod(int, int) = delete;  // CUDA cannot tell which one is meant
double fabs(int) = delete;
static inline float __fdividef(float x, float y) { return x / y; }
static inline float rsqrt(float x) { return 1 / sqrtf(x); }
static inline double rsqrt(double x) { return 1 / sqrt(x); }

static void (*kernel)(void**);
static void** arguments;
static void fiber() {
  const int me = threadIdx.x;
  kernel(arguments);
  ended[me] = true;
}
extern "C" void run_blocks(int blocks, int threads, bool backwards, void (*of)(void**), void** given) {
  kernel = of;
  arguments = given;
  for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x) {
    memset(shared_memory, 0xff, sizeof shared_memory);  // NaN, until it is written
    for (int i = 0; i < threads; ++i) {
      ended[i] = false;
      getcontext(&fibers[i]);
      fibers[i].uc_stack = {stacks[i], 0, sizeof stacks[i]};
      fibers[i].uc_link = &scheduler;
      makecontext(&fibers[i], fiber, 0);
    }
    for (bool any = true; any;) {
      any = false;
      for (int turn = 0; turn < threads; ++turn) {
        const int i = backwards ? threads - 1 - turn : turn;
        if (ended[i]) continue;
        any = true;
        threadIdx.x = i;
        swapcontext(&scheduler, &fibers[i]);
      }
    }
  }
}
