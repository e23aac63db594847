// the environment of a kernel's source on a GPU, for the host's compiler
#include <math.h>
#include <stddef.h>
#include <string.h>
#include <ucontext.h>
#define __device__
template <class T> static T fake_cospi(T x) { return (T)cosl(M_PIl * remainderl(x, 2)); }
template <class T> static T fake_sinpi(T x) { return (T)sinl(M_PIl * remainderl(x, 2)); }
#define cospi fake_cospi
#define sinpi fake_sinpi
template <class T> struct CArray {  // d: contiguous, ndim, size, shape, strides in bytes
  T* p; const ptrdiff_t* d;
  ptrdiff_t size() const { return d[2]; }
  T& operator[](ptrdiff_t k) const {
    if (d[0]) return p[k];
    ptrdiff_t at = 0;
    for (ptrdiff_t j = d[1]; j-- > 0; k /= d[3 + j]) at += (k % d[3 + j]) * d[3 + d[1] + j];
    return *(T*)((char*)p + at);
  }
};
struct CIndexer { ptrdiff_t n; ptrdiff_t size() const { return n; } };
static struct { unsigned int x; } threadIdx;

// A warp: 32 threads that run in turn, each up to its next synchronization. A read before another thread's write, or
// after a later one, therefore gives a wrong result. The launch fails if threads wait for others that do not arrive or
// that synchronize elsewhere.
struct Warp {
  ucontext_t scheduler, thread[32];
  char stack[32][1 << 16], exchanged[2][32][16];  // double-buffered
  bool done[32];
  unsigned int mask[32];
  long arrivals[32];
  int fault;
  void (*run)(void* body, ptrdiff_t i);
  void* body;
  ptrdiff_t first;
};
static Warp warp;
static void _thread() {
  const unsigned int lane = threadIdx.x & 31;
  warp.run(warp.body, warp.first + lane);
  warp.done[lane] = true;
}
static void _sync_lanes(unsigned int mask) {
  const unsigned int lane = threadIdx.x & 31;
  warp.mask[lane] = mask;
  ++warp.arrivals[lane];
  if (!(mask >> lane & 1)) warp.fault = 1;
  swapcontext(&warp.thread[lane], &warp.scheduler);
  for (int l = 0; l < 32; ++l)
    if (mask >> l & 1) {
      const long behind = warp.arrivals[lane] - warp.arrivals[l];
      if (behind > 0 || (behind == 0 && warp.mask[l] != mask)) warp.fault = 1;
    }
}
static inline void __syncwarp(unsigned int mask) { _sync_lanes(mask); }
template <class T> static T __shfl_xor_sync(unsigned int mask, T x, int bits) {
  const unsigned int lane = threadIdx.x & 31;
  const long buffer = warp.arrivals[lane] & 1;
  memcpy(warp.exchanged[buffer][lane], &x, sizeof(T));
  _sync_lanes(mask);
  memcpy(&x, warp.exchanged[buffer][lane ^ bits], sizeof(T));
  return x;
}
template <class Body> static int run_warps(ptrdiff_t size, Body& body) {
  warp.run = [](void* b, ptrdiff_t i) { (*(Body*)b)(i); };
  warp.body = &body;
  warp.fault = 0;
  for (warp.first = 0; warp.first < size; warp.first += 32) {
    const int lanes = size - warp.first < 32 ? (int)(size - warp.first) : 32;
    for (int l = 0; l < 32; ++l) { warp.done[l] = l >= lanes; warp.arrivals[l] = 0; }
    for (int l = 0; l < lanes; ++l) {
      getcontext(&warp.thread[l]);
      warp.thread[l].uc_stack.ss_sp = warp.stack[l];
      warp.thread[l].uc_stack.ss_size = sizeof warp.stack[l];
      warp.thread[l].uc_link = &warp.scheduler;
      makecontext(&warp.thread[l], _thread, 0);
    }
    for (int left = lanes; left > 0;)
      for (int l = 0; l < lanes; ++l)
        if (!warp.done[l]) {
          threadIdx.x = (unsigned int)((warp.first + l) % 128);
          swapcontext(&warp.scheduler, &warp.thread[l]);
          left -= warp.done[l];
        }
  }
  return warp.fault;
}
template <class Body> static int run_threads(ptrdiff_t size, Body& body) {
  for (ptrdiff_t i = 0; i < size; ++i) body(i);
  return 0;
}
