"""The C++ of the CPU's backend: products of small matrices, the team of threads, and the walk over a recorded step.

It is compiled once, like the kernels' texts, but may contract a·b + c: a product is a sum in whatever order.
"""

# activations that a product in registers applies to the vectors that it stores; held to the kernels of their names
FUSED_ACTIVATIONS = ("relu",)
FLAGS = ("-ffp-contract=fast", "-pthread")

PRODUCTS = """
#include <string.h>

typedef long long Int;

// ---- vectors of the machine's own width; GCC's and clang's extension ----

#if defined(__AVX512F__)
enum { BYTES = 64 };
#elif defined(__AVX__)
enum { BYTES = 32 };
#else
enum { BYTES = 16 };
#endif
extern "C" Int vector_bytes() { return BYTES; }

template <typename T> struct Of;
template <> struct Of<float> { typedef float V __attribute__((vector_size(BYTES), aligned(4), may_alias)); };
template <> struct Of<double> { typedef double V __attribute__((vector_size(BYTES), aligned(8), may_alias)); };
#define ALWAYS static inline __attribute__((always_inline))

// ---- what follows a finished sum: the bias, and the rectifier, through which NaN passes ----

template <typename T> struct After {
  typedef typename Of<T>::V V;
  const T* bias;
  bool relu;
  T of(T sum, Int j) const {
    const T z = bias ? sum + bias[j] : sum;  // mutate: E1 cpu bias
    return relu && z < (T)0 ? (T)0 : z;
  }
  V of_vector(V sum, Int j) const {
    const V z = bias ? sum + *(const V*)(bias + j) : sum;
    return relu ? (z < V{} ? V{} : z) : z;
  }
};

// ---- C = A B in blocks of R rows and U vectors that stay in registers ----

// the sums of a block whose last columns do not count
template <typename T>
__attribute__((noinline)) static void narrow(const typename Of<T>::V* sums, int rows, int wide, T* c, Int ldc,
                                             Int columns, bool more, After<T> after) {
  const T* sum = (const T*)sums;
  for (int i = 0; i < rows; ++i, sum += wide, c += ldc)
    for (Int j = 0; j < columns; ++j) c[j] = after.of(more ? c[j] + sum[j] : sum[j], j);
}

// A(i, k) = a[i ai + k ak]; row k of B's panel is at b + k ldb, U vectors wide, of which `columns` elements count
template <typename T, int R, int U>
static void block(Int K, const T* a, Int ai, Int ak, const T* b, Int ldb, T* c, Int ldc, Int columns, bool more,
                  After<T> after) {
  typedef typename Of<T>::V V;
  enum { L = BYTES / sizeof(T) };
  V sum[R][U];
  for (int i = 0; i < R; ++i) for (int u = 0; u < U; ++u) sum[i][u] = V{};
  for (Int k = 0; k < K; ++k, a += ak, b += ldb) {
    V row[U];
    _Pragma("GCC unroll 4") for (int u = 0; u < U; ++u) row[u] = *(const V*)(b + u * L);
    _Pragma("GCC unroll 8") for (int i = 0; i < R; ++i)
      _Pragma("GCC unroll 4") for (int u = 0; u < U; ++u) sum[i][u] += a[i * ai] * row[u];
  }
  if (columns < U * L) {
    V kept[R * U];
    memcpy(kept, sum, sizeof kept);
    return narrow<T>(kept, R, U * L, c, ldc, columns, more, after);
  }
  for (int i = 0; i < R; ++i)
    for (int u = 0; u < U; ++u) {
      V* at = (V*)(c + i * ldc + u * L);
      *at = after.of_vector(more ? *at + sum[i][u] : sum[i][u], u * L);
    }
}

template <typename T, int U>
static void panel(Int n, Int K, const T* a, Int ai, Int ak, const T* b, Int ldb, T* c, Int ldc, Int columns, bool more,
                  After<T> after) {
  for (; n >= 6; n -= 6, a += 6 * ai, c += 6 * ldc) block<T, 6, U>(K, a, ai, ak, b, ldb, c, ldc, columns, more, after);
  for (; n >= 4; n -= 4, a += 4 * ai, c += 4 * ldc) block<T, 4, U>(K, a, ai, ak, b, ldb, c, ldc, columns, more, after);
  for (; n >= 2; n -= 2, a += 2 * ai, c += 2 * ldc) block<T, 2, U>(K, a, ai, ak, b, ldb, c, ldc, columns, more, after);
  if (n == 1) block<T, 1, U>(K, a, ai, ak, b, ldb, c, ldc, columns, more, after);
}

// c_i = f(Σ_k A(i, k) b_k + bias), the rows of A and b contiguous; four rows at a time, so that sums do not wait
template <typename T, int R>
ALWAYS void dots_of_rows(Int K, const T* a, Int ai, const T* b, T* c, Int ldc, After<T> after) {
  typedef typename Of<T>::V V;
  enum { L = BYTES / sizeof(T) };
  V sums[R];
  T sum[R];
  for (int i = 0; i < R; ++i) sums[i] = V{}, sum[i] = (T)0;
  Int k = 0;
  for (; k + L <= K; k += L) {
    const V right = *(const V*)(b + k);
    _Pragma("GCC unroll 4") for (int i = 0; i < R; ++i) sums[i] += *(const V*)(a + i * ai + k) * right;
  }
  for (; k < K; ++k) for (int i = 0; i < R; ++i) sum[i] += a[i * ai + k] * b[k];
  for (int i = 0; i < R; ++i) {
    T half[L];
    memcpy(half, &sums[i], sizeof half);
    for (int l = L / 2; l > 0; l /= 2) for (int q = 0; q < l; ++q) half[q] += half[q + l];
    c[i * ldc] = after.of(sum[i] + half[0], 0);
  }
}
template <typename T> static void dots(Int n, Int K, const T* a, Int ai, const T* b, T* c, Int ldc, After<T> after) {
  for (; n >= 4; n -= 4, a += 4 * ai, c += 4 * ldc) dots_of_rows<T, 4>(K, a, ai, b, c, ldc, after);
  for (; n >= 1; n -= 1, a += ai, c += ldc) dots_of_rows<T, 1>(K, a, ai, b, c, ldc, after);
}

// C (n, m) = f(A (n, K) B (K, m) + bias), the bias (m) in every row where there is one; every operand by its strides
// but C's columns; blocks of K in order, so one fixed sum
template <typename T>
static void in_registers(Int n, Int K, Int m, const T* a, Int ai, Int ak, const T* b, Int bk, Int bj, T* c, Int ldc,
                         After<T> after) {
  enum { L = BYTES / sizeof(T), W = 2 * L, DEPTH = 256, ROWS = 96 };
  const bool side_by_side = m == 1 && ldc == 1 && ai == 1 && !after.bias;
  if (m == 1 && ak == 1 && bk == 1 && !(side_by_side && K == 1)) return dots(n, K, a, ai, b, c, ldc, after);
  if (side_by_side) {  // one column: C' = B' A', its elements side by side
    const T *a0 = a;
    a = b, b = a0, m = n, n = 1;
    const Int i = ai, k = ak;
    ai = 0, ak = bk, bj = i, bk = k, ldc = m;
  }
  // rows that stay in the nearest cache while all columns pass by, where B needs no packing
  if (bj == 1 && n > 2 * ROWS) {
    for (; n > 0; n -= ROWS, a += ROWS * ai, c += ROWS * ldc)
      in_registers(n < ROWS ? n : (Int)ROWS, K, m, a, ai, ak, b, bk, bj, c, ldc, after);
    return;
  }
  T packed[DEPTH * W];
  for (Int k0 = 0; k0 < K; k0 += DEPTH) {
    const Int depth = K - k0 < DEPTH ? K - k0 : DEPTH;
    for (Int j = 0; j < m; j += W) {
      const Int columns = m - j < W ? m - j : W;
      const T *from = b + k0 * bk + j * bj, *at = from;
      Int ldb = bk;
      const Int width = columns > L ? W : L;
      if (bj != 1 || columns < width) {
        for (Int k = 0; k < depth; ++k) {
          T* to = packed + k * width;
          if (bj == 1) for (Int q = 0; q < columns; ++q) to[q] = from[k * bk + q];
          else for (Int q = 0; q < columns; ++q) to[q] = from[k * bk + q * bj];
          for (Int q = columns; q < width; ++q) to[q] = (T)0;
        }
        at = packed, ldb = width;
      }
      const T* left = a + k0 * ak;
      const bool last = k0 + depth == K;
      const After<T> then = {last && after.bias ? after.bias + j : nullptr, last && after.relu};
      if (width == W) panel<T, 2>(n, depth, left, ai, ak, at, ldb, c + j, ldc, columns, k0 > 0, then);
      else panel<T, 1>(n, depth, left, ai, ak, at, ldb, c + j, ldc, columns, k0 > 0, then);
    }
  }
}

// sizes n, k, m, strides of A's rows and columns, of B's rows and columns, of C's rows, whether there is a bias and a
// rectifier; at A, B, C, bias
template <typename T> static void small_product(void* const* at, const Int* s) {
  in_registers((Int)s[0], s[1], s[2], (const T*)at[0], s[3], s[4], (const T*)at[1], s[5], s[6], (T*)at[2], s[7],
               After<T>{s[8] ? (const T*)at[3] : nullptr, s[9] != 0});
}
extern "C" void small_product__TYPE(void* const* at, const Int* s, const double*) { small_product<CTYPE>(at, s); }
"""

WALK = """
#include <pthread.h>  // of C++'s own threads and locks the headers alone take half a second to read
#include <sched.h>
#include <time.h>
#include <atomic>
#ifndef _WIN32
#include <unistd.h>
#endif
#if defined(__x86_64__) || defined(__i386__)
#include <xmmintrin.h>
#endif

typedef long long Int;
typedef void (*Kernel)(void* const* at, const Int* sizes, const double* numbers);
struct Node { Kernel run; void* const* at; const Int* sizes; const double* numbers; };  // run 0: wait for the others

// ---- the product by BLAS: sizes as in registers, one stride of A and of B being 1; at A, B, C, gemm ----

template <typename T> static void blas_product(void* const* at, const Int* s) {
  typedef void (*Gemm)(Int, Int, Int, Int, Int, Int, T, const T*, Int, const T*, Int, T, T*, Int);
  enum { ROW_MAJOR = 101, AS_IS = 111, TRANSPOSED = 112 };
  const bool ta = s[4] != 1, tb = s[6] != 1;
  ((Gemm)at[3])(ROW_MAJOR, ta ? TRANSPOSED : AS_IS, tb ? TRANSPOSED : AS_IS, s[0], s[2], s[1], (T)1,
                (const T*)at[0], ta ? s[4] : s[3], (const T*)at[1], tb ? s[6] : s[5], (T)0, (T*)at[2], s[7]);
}
extern "C" void blas_product__float32(void* const* at, const Int* s, const double*) { blas_product<float>(at, s); }
extern "C" void blas_product__float64(void* const* at, const Int* s, const double*) { blas_product<double>(at, s); }

// ---- the walk's own ----

struct Move { void** slot; Int bytes; };  // an address that goes on so far after each step

static double now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

// ---- while one of these lives, subnormal numbers are 0 in this thread: they cost a hundred times as much ----

struct Flushed {
#if defined(__x86_64__) || defined(__i386__)
  unsigned before;
  explicit Flushed(bool on) : before(_mm_getcsr()) { if (on) _mm_setcsr(before | 0x8040); }
  ~Flushed() { _mm_setcsr(before); }
#elif defined(__aarch64__)
  unsigned long long before;
  explicit Flushed(bool on) {
    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    if (on) __asm__ volatile("msr fpcr, %0" ::"r"(before | (1ull << 24)));
  }
  ~Flushed() { __asm__ volatile("msr fpcr, %0" ::"r"(before)); }
#else
  explicit Flushed(bool) {}
#endif
};

// ---- the team: threads that wait, spinning for a moment and then asleep, for a walk to share ----

struct Locked {
  pthread_mutex_t& door;
  explicit Locked(pthread_mutex_t& door) : door(door) { pthread_mutex_lock(&door); }
  ~Locked() { pthread_mutex_unlock(&door); }
};

static inline void pause_a_moment(Int tried) {
  if (tried > 4000) sched_yield();
#if defined(__x86_64__) || defined(__i386__)
  else _mm_pause();
#endif
}

struct Job { const Node* const* nodes; const Int* counts; bool flush; };

struct Team {
  Int size = 1;  // the caller included
  pthread_mutex_t caller = PTHREAD_MUTEX_INITIALIZER, door = PTHREAD_MUTEX_INITIALIZER;
  pthread_cond_t bell = PTHREAD_COND_INITIALIZER;
  Job job{};
  Int wanted = 0;                // threads of the job
  std::atomic<Int> rounds{0};    // jobs given out so far
  std::atomic<Int> here{0}, turn{0};
  std::atomic<bool> over{true};

  void wait() {
    const Int mine = turn.load(std::memory_order_relaxed);
    if (here.fetch_add(1, std::memory_order_acq_rel) == wanted - 1) {
      here.store(0, std::memory_order_relaxed);
      turn.store(mine + 1, std::memory_order_release);
    } else {
      for (Int tried = 0; turn.load(std::memory_order_acquire) == mine; ++tried) pause_a_moment(tried);
    }
  }
  void step(Int who) {
    const Node* node = job.nodes[who];
    for (Int k = job.counts[who]; k > 0; --k, ++node) {
      if (node->run) node->run(node->at, node->sizes, node->numbers);
      else wait();
    }
  }
  void serve(Int who) {
    for (Int seen = 0;;) {
      for (Int tried = 0; rounds.load(std::memory_order_acquire) == seen && tried < 4000; ++tried) pause_a_moment(0);
      {
        const Locked locked(door);
        while (rounds.load(std::memory_order_relaxed) == seen) pthread_cond_wait(&bell, &door);
        seen = rounds.load(std::memory_order_relaxed);
        if (who >= wanted) continue;
      }
      const Flushed flushed(job.flush);
      for (wait(); !over.load(std::memory_order_relaxed); wait()) { step(who); wait(); }
      wait();
    }
  }
  struct Member { Team* team; Int who; };
  static void* joins(void* given) {
    const Member member = *(Member*)given;
    delete (Member*)given;
    member.team->serve(member.who);
    return nullptr;
  }
  bool grow(Int threads) {
    for (; size < threads; ++size) {
      Member* const member = new Member{this, size};
      pthread_t thread;
      if (pthread_create(&thread, nullptr, joins, member) != 0) { delete member; return false; }
      pthread_detach(thread);
    }
    return true;
  }
  void begin(const Job& given, Int threads) {
    const Locked locked(door);
    job = given, wanted = threads;
    over.store(false, std::memory_order_relaxed);
    rounds.fetch_add(1, std::memory_order_release);
    pthread_cond_broadcast(&bell);
  }
  void end() {
    over.store(true, std::memory_order_relaxed);
    wait();
    wait();
  }
};

static Team* team() {
  static pthread_mutex_t once = PTHREAD_MUTEX_INITIALIZER;
  static Team* found = nullptr;
  static long owner = -1;
  const Locked locked(once);
#ifdef _WIN32
  const long here = 0;
#else
  const long here = (long)getpid();
#endif
  // threads do not come along into a forked process: it gets a team of its own
  if (!found || owner != here) found = new Team, owner = here;
  return found;
}

// ---- BLAS takes one thread while a team walks ----

static int (*blas_threads)() = nullptr;
static void (*set_blas_threads)(int) = nullptr;
extern "C" void use_blas_threads(void* get, void* set) {
  blas_threads = (int (*)())get, set_blas_threads = (void (*)(int))set;
}
struct OneThread {
  static pthread_mutex_t& door() { static pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER; return m; }
  static int& users() { static int n = 0; return n; }
  static int& before() { static int n = 1; return n; }
  const bool on;
  explicit OneThread(bool asked) : on(asked && set_blas_threads) {
    if (!on) return;
    const Locked locked(door());
    if (users()++ == 0) { before() = blas_threads(); set_blas_threads(1); }
  }
  ~OneThread() {
    if (!on) return;
    const Locked locked(door());
    if (--users() == 0) set_blas_threads(before());
  }
};

// ---- the walk ----

// One caller does everybody's share, in the order that the waits prescribe.
static void alone(const Node* const* nodes, const Int* counts, Int threads) {
  Int at[256] = {0};
  for (bool left = true; left;) {
    left = false;
    for (Int who = 0; who < threads; ++who) {
      for (; at[who] < counts[who]; ++at[who]) {
        const Node& node = nodes[who][at[who]];
        if (!node.run) { ++at[who]; left = true; break; }
        node.run(node.at, node.sizes, node.numbers);
      }
    }
  }
}

// Walks every thread's nodes `steps` times, at least once; returns how many times, fewer where `seconds` are over or a
// step was bad. `rates` are the learning rates of the optimiser's steps from `first` on, or null. `moves` are made
// after each step.
extern "C" Int walk(const Node* const* nodes, const Int* counts, Int threads, Int flush, const Move* moves, Int moving,
                    Int steps, double* state, const double* rates, Int first,
                    Int step_slot, Int rate_slot, Int bad_slot, double seconds) {
  const double begin = steps > 1 ? now() : 0.0;
  const OneThread one(threads > 1);
  const Flushed flushed(flush != 0);
  Team* crew = threads > 1 ? team() : nullptr;
  const bool mine = crew && pthread_mutex_trylock(&crew->caller) == 0;
  const bool together = mine && crew->grow(threads);
  if (together) crew->begin(Job{nodes, counts, flush != 0}, threads);
  Int look = 1, done = 0;
  for (;;) {
    if (rates) state[rate_slot] = rates[(Int)state[step_slot] - first];
    if (together) {
      crew->wait();
      crew->step(0);
      crew->wait();
    } else if (threads > 1) {
      alone(nodes, counts, threads);
    } else {
      const Node* node = nodes[0];
      for (Int k = counts[0]; k > 0; --k, ++node) node->run(node->at, node->sizes, node->numbers);
    }
    ++done;
    for (Int k = 0; k < moving; ++k) *moves[k].slot = (char*)*moves[k].slot + moves[k].bytes;
    if (done == steps || (state && state[bad_slot] != 0.0)) break;
    if (done == look) {
      const double passed = now() - begin;
      if (passed >= seconds) break;
      // the clock is asked some thirty times
      const double each = passed / (double)done;
      const Int more = each > 0.0 ? (Int)(seconds / 32.0 / each) : 1;
      look = done + (more < 1 ? 1 : more);
    }
  }
  if (together) crew->end();
  if (mine) pthread_mutex_unlock(&crew->caller);
  return done;
}

// ---- epochs: a list of walks, so many times each, again and again ----

struct Part { const Node* const* nodes; const Int* counts; Int threads; Int times; };

// Goes on from `at` (epochs, parts, times done) until so many epochs are done or a step was bad, which gives 1, or
// until `seconds` are over, which gives 0. A rate is read before every walk: `rates` holds one more than there are
// steps.
extern "C" Int walk_epochs(const Part* parts, Int count, Int epochs, Int* at, Int flush, double* state,
                           const double* rates, Int first, Int step_slot, Int rate_slot, Int bad_slot,
                           double seconds) {
  const double begin = now();
  bool moved = false;
  for (; at[0] < epochs; ++at[0], at[1] = 0)
    for (; at[1] < count; ++at[1], at[2] = 0) {
      const Part& part = parts[at[1]];
      while (at[2] < part.times) {
        const double left = seconds - (now() - begin);
        if (moved && left <= 0.0) return 0;
        at[2] += walk(part.nodes, part.counts, part.threads, flush, nullptr, 0, part.times - at[2], state, rates, first,
                      step_slot, rate_slot, bad_slot, left);
        moved = true;
        if (state[bad_slot] != 0.0) return 1;
      }
    }
  return 1;
}

// ---- one thread for BLAS, and for walks made meanwhile, until it is said again ----

extern "C" void hold_blas(Int on) {
  static OneThread* held = nullptr;
  static Int users = 0;
  static pthread_mutex_t door = PTHREAD_MUTEX_INITIALIZER;
  const Locked locked(door);
  if (on && users++ == 0) held = new OneThread(true);
  if (!on && --users == 0) { delete held; held = nullptr; }
}
"""


def products(dtype: str) -> str:
    """The text of the products in registers of one type."""
    return PRODUCTS.replace("CTYPE", {"float32": "float", "float64": "double"}[dtype]).replace("TYPE", dtype)
