// Products of small matrices with the sums in vector registers, and bias and ReLU as their epilogue.
// GEMM_TYPE is the element type: one translation unit per type, whose functions are named by GEMM_NAME.

#include <string.h>

#ifndef GEMM_TYPE
#define GEMM_TYPE float
#define GEMM_NAME(f) f##__float32
#endif

typedef long long Int;

// vectors of the machine's width: an extension of GCC and clang
#if defined(__AVX512F__)
enum { BYTES = 64 };
#elif defined(__AVX__)
enum { BYTES = 32 };
#else
enum { BYTES = 16 };
#endif
extern "C" Int GEMM_NAME(vector_bytes)() { return BYTES; }

template <typename T>
struct Vector;
template <>
struct Vector<float> {
  typedef float Type __attribute__((vector_size(BYTES), aligned(4), may_alias));
};
template <>
struct Vector<double> {
  typedef double Type __attribute__((vector_size(BYTES), aligned(8), may_alias));
};
#define ALWAYS_INLINE static inline __attribute__((always_inline))

// What follows a finished sum: the bias, then ReLU, which passes NaN through.
template <typename T>
struct Epilogue {
  typedef typename Vector<T>::Type V;
  const T* bias;
  bool relu;
  T apply(T sum, Int j) const {
    const T z = bias ? sum + bias[j] : sum;  // mutate: E1 cpu bias
    return relu && z < (T)0 ? (T)0 : z;
  }
  V apply_vector(V sum, Int j) const {
    const V z = bias ? sum + *(const V*)(bias + j) : sum;
    return relu ? (z < V{} ? V{} : z) : z;
  }
};

// Stores the sums of a tile of which only the first `columns` columns are part of C.
template <typename T>
__attribute__((noinline)) static void store_tail(const typename Vector<T>::Type* sums, int rows, int width, T* c,
                                                 Int ldc, Int columns, bool accumulate, Epilogue<T> epilogue) {
  const T* sum = (const T*)sums;
  for (int i = 0; i < rows; ++i, sum += width, c += ldc)
    for (Int j = 0; j < columns; ++j) c[j] = epilogue.apply(accumulate ? c[j] + sum[j] : sum[j], j);
}

// One tile of C, R rows by U vectors, in registers. A(i, k) = a[i ai + k ak]. Row k of B's panel starts at b + k ldb
// and is U vectors wide, of which `columns` elements are part of C.
template <typename T, int R, int U>
static void tile(Int K, const T* a, Int ai, Int ak, const T* b, Int ldb, T* c, Int ldc, Int columns, bool accumulate,
                 Epilogue<T> epilogue) {
  typedef typename Vector<T>::Type V;
  enum { L = BYTES / sizeof(T) };
  V sum[R][U];
  for (int i = 0; i < R; ++i)
    for (int u = 0; u < U; ++u) sum[i][u] = V{};
  for (Int k = 0; k < K; ++k, a += ak, b += ldb) {
    V row[U];
    _Pragma("GCC unroll 4") for (int u = 0; u < U; ++u) row[u] = *(const V*)(b + u * L);
    _Pragma("GCC unroll 8") for (int i = 0; i < R; ++i) _Pragma("GCC unroll 4") for (int u = 0; u < U; ++u) sum[i][u] +=
        a[i * ai] * row[u];
  }
  if (columns < U * L) {
    V copy[R * U];
    memcpy(copy, sum, sizeof copy);
    return store_tail<T>(copy, R, U * L, c, ldc, columns, accumulate, epilogue);
  }
  for (int i = 0; i < R; ++i)
    for (int u = 0; u < U; ++u) {
      V* out = (V*)(c + i * ldc + u * L);
      *out = epilogue.apply_vector(accumulate ? *out + sum[i][u] : sum[i][u], u * L);
    }
}

template <typename T, int U>
static void panel(Int n, Int K, const T* a, Int ai, Int ak, const T* b, Int ldb, T* c, Int ldc, Int columns,
                  bool accumulate, Epilogue<T> epilogue) {
  for (; n >= 6; n -= 6, a += 6 * ai, c += 6 * ldc)
    tile<T, 6, U>(K, a, ai, ak, b, ldb, c, ldc, columns, accumulate, epilogue);
  for (; n >= 4; n -= 4, a += 4 * ai, c += 4 * ldc)
    tile<T, 4, U>(K, a, ai, ak, b, ldb, c, ldc, columns, accumulate, epilogue);
  for (; n >= 2; n -= 2, a += 2 * ai, c += 2 * ldc)
    tile<T, 2, U>(K, a, ai, ak, b, ldb, c, ldc, columns, accumulate, epilogue);
  if (n == 1) tile<T, 1, U>(K, a, ai, ak, b, ldb, c, ldc, columns, accumulate, epilogue);
}

// c_i = f(Σ_k A(i, k) b_k + bias) for contiguous rows of A and contiguous b. R rows have independent sums, so that
// additions overlap.
template <typename T, int R>
ALWAYS_INLINE void dot_rows(Int K, const T* a, Int ai, const T* b, T* c, Int ldc, Epilogue<T> epilogue) {
  typedef typename Vector<T>::Type V;
  enum { L = BYTES / sizeof(T) };
  V sums[R];
  T sum[R];
  for (int i = 0; i < R; ++i) sums[i] = V{}, sum[i] = (T)0;
  Int k = 0;
  for (; k + L <= K; k += L) {
    const V right = *(const V*)(b + k);
    _Pragma("GCC unroll 4") for (int i = 0; i < R; ++i) sums[i] += *(const V*)(a + i * ai + k) * right;
  }
  for (; k < K; ++k)
    for (int i = 0; i < R; ++i) sum[i] += a[i * ai + k] * b[k];
  for (int i = 0; i < R; ++i) {
    T half[L];
    memcpy(half, &sums[i], sizeof half);
    for (int l = L / 2; l > 0; l /= 2)
      for (int q = 0; q < l; ++q) half[q] += half[q + l];
    c[i * ldc] = epilogue.apply(sum[i] + half[0], 0);
  }
}

template <typename T>
static void gemv(Int n, Int K, const T* a, Int ai, const T* b, T* c, Int ldc, Epilogue<T> epilogue) {
  for (; n >= 4; n -= 4, a += 4 * ai, c += 4 * ldc) dot_rows<T, 4>(K, a, ai, b, c, ldc, epilogue);
  for (; n >= 1; n -= 1, a += ai, c += ldc) dot_rows<T, 1>(K, a, ai, b, c, ldc, epilogue);
}

// C (n, m) = f(A (n, K) B (K, m) + bias); the bias (m) may be null. A and B have any strides, the columns of C have
// stride 1. Blocks of K are added in order, so the rounding depends on the shapes alone.
template <typename T>
static void gemm(Int n, Int K, Int m, const T* a, Int ai, Int ak, const T* b, Int bk, Int bj, T* c, Int ldc,
                 Epilogue<T> epilogue) {
  enum { L = BYTES / sizeof(T), W = 2 * L, DEPTH = 256, ROWS = 96 };
  const bool contiguous_column = m == 1 && ldc == 1 && ai == 1 && !epilogue.bias;
  if (m == 1 && ak == 1 && bk == 1 && !(contiguous_column && K == 1)) return gemv(n, K, a, ai, b, c, ldc, epilogue);
  if (contiguous_column) {  // computed as one row: C' = B' A'
    const T* a0 = a;
    a = b, b = a0, m = n, n = 1;
    const Int i = ai, k = ak;
    ai = 0, ak = bk, bj = i, bk = k, ldc = m;
  }
  // if B needs no packing: blocks of rows that stay in the L1 cache for all columns
  if (bj == 1 && n > 2 * ROWS) {
    for (; n > 0; n -= ROWS, a += ROWS * ai, c += ROWS * ldc)
      gemm(n < ROWS ? n : (Int)ROWS, K, m, a, ai, ak, b, bk, bj, c, ldc, epilogue);
    return;
  }
  T packed[DEPTH * W];
  for (Int k0 = 0; k0 < K; k0 += DEPTH) {
    const Int depth = K - k0 < DEPTH ? K - k0 : DEPTH;
    for (Int j = 0; j < m; j += W) {
      const Int columns = m - j < W ? m - j : W;
      const T *from = b + k0 * bk + j * bj, *right = from;
      Int ldb = bk;
      const Int width = columns > L ? W : L;
      if (bj != 1 || columns < width) {
        for (Int k = 0; k < depth; ++k) {
          T* to = packed + k * width;
          if (bj == 1)
            for (Int q = 0; q < columns; ++q) to[q] = from[k * bk + q];
          else
            for (Int q = 0; q < columns; ++q) to[q] = from[k * bk + q * bj];
          for (Int q = columns; q < width; ++q) to[q] = (T)0;
        }
        right = packed, ldb = width;
      }
      const T* left = a + k0 * ak;
      const bool last = k0 + depth == K;
      const Epilogue<T> then = {last && epilogue.bias ? epilogue.bias + j : nullptr, last && epilogue.relu};
      if (width == W)
        panel<T, 2>(n, depth, left, ai, ak, right, ldb, c + j, ldc, columns, k0 > 0, then);
      else
        panel<T, 1>(n, depth, left, ai, ak, right, ldb, c + j, ldc, columns, k0 > 0, then);
    }
  }
}

// sizes: n, k, m, strides of A's rows and columns, of B's rows and columns, of C's rows, bias present, ReLU.
// pointers: A, B, C, bias.
template <typename T>
static void small_gemm_call(void* const* pointers, const Int* s) {
  gemm((Int)s[0], s[1], s[2], (const T*)pointers[0], s[3], s[4], (const T*)pointers[1], s[5], s[6], (T*)pointers[2],
       s[7], Epilogue<T>{s[8] ? (const T*)pointers[3] : nullptr, s[9] != 0});
}
extern "C" void GEMM_NAME(small_gemm)(void* const* pointers, const Int* s, const double*) {
  small_gemm_call<GEMM_TYPE>(pointers, s);
}
