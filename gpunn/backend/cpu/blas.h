// Matrix products by the BLAS that NumPy loaded, and control of its number of threads.
#ifndef GPUNN_BLAS_H
#define GPUNN_BLAS_H

#include "thread_pool.h"

// sizes: n, k, m, strides of A's rows and columns, of B's rows and columns, of C's rows; one stride of A and of B is 1.
// pointers: A, B, C, cblas_?gemm.
template <typename T>
static void blas_gemm(void* const* pointers, const Int* s) {
  typedef void (*Gemm)(Int, Int, Int, Int, Int, Int, T, const T*, Int, const T*, Int, T, T*, Int);
  enum { ROW_MAJOR = 101, NO_TRANS = 111, TRANS = 112 };
  const bool ta = s[4] != 1, tb = s[6] != 1;
  ((Gemm)pointers[3])(ROW_MAJOR, ta ? TRANS : NO_TRANS, tb ? TRANS : NO_TRANS, s[0], s[2], s[1], (T)1,
                      (const T*)pointers[0], ta ? s[4] : s[3], (const T*)pointers[1], tb ? s[6] : s[5], (T)0,
                      (T*)pointers[2], s[7]);
}
extern "C" void blas_gemm__float32(void* const* pointers, const Int* s, const double*) {
  blas_gemm<float>(pointers, s);
}
extern "C" void blas_gemm__float64(void* const* pointers, const Int* s, const double*) {
  blas_gemm<double>(pointers, s);
}

static int (*get_blas_threads)() = nullptr;
static void (*set_blas_threads)(int) = nullptr;
extern "C" void use_blas_threads(void* get, void* set) {
  get_blas_threads = (int (*)())get, set_blas_threads = (void (*)(int))set;
}

// BLAS uses one thread while at least one of these exists, or between begin() and end().
struct SingleThreadedBlas {
  static pthread_mutex_t& mutex() {
    static pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
    return m;
  }
  static int& users() {
    static int n = 0;
    return n;
  }
  static int& before() {
    static int n = 1;
    return n;
  }
  static void begin() {
    const ScopedLock lock(mutex());
    if (!set_blas_threads || users()++ != 0) return;
    before() = get_blas_threads();
    set_blas_threads(1);
  }
  static void end() {
    const ScopedLock lock(mutex());
    if (set_blas_threads && --users() == 0) set_blas_threads(before());
  }
  const bool on;
  explicit SingleThreadedBlas(bool wanted) : on(wanted) {
    if (on) begin();
  }
  ~SingleThreadedBlas() {
    if (on) end();
  }
};

// Limits BLAS to one thread until it is called with 0. Calls nest.
extern "C" void limit_blas_threads(Int on) { on ? SingleThreadedBlas::begin() : SingleThreadedBlas::end(); }

#endif  // GPUNN_BLAS_H
