// Functions for kernels by row on a CPU, where one lane processes a row. lanes_cuda.h has the same functions for a GPU.
enum { LANE = 0, LANES = 1 };

template <int L>
static inline void sync_lanes() {}
template <int L, class T>
static inline T sum_lanes(T x) {
  return x;
}
template <int L, class T>
static inline T max_lanes(T x) {
  return x;
}

// Index of the largest of m values: the first of equal values; NaN is larger than every number.
template <int L, class T>
static inline long long row_argmax(const T* a, long long m) {
  long long best = 0;
  for (long long k = 1; k < m; ++k) best = a[best] == a[best] && !(a[k] <= a[best]) ? k : best;
  return best;
}

template <int L, class S, class T>
static inline void convert_row(const S* from, T* x, long long m) {
  for (long long k = 0; k < m; ++k) x[k] = (T)from[k];
}

// Vectors of 32 and of 16 bytes at any address of a T, and a single T. A type with attributes is no template argument.
template <class T>
struct Wide;
template <class T>
struct Narrow;
template <>
struct Wide<float> {
  typedef float Type __attribute__((vector_size(32), aligned(4), may_alias));
};
template <>
struct Wide<double> {
  typedef double Type __attribute__((vector_size(32), aligned(8), may_alias));
};
template <>
struct Narrow<float> {
  typedef float Type __attribute__((vector_size(16), aligned(4), may_alias));
};
template <>
struct Narrow<double> {
  typedef double Type __attribute__((vector_size(16), aligned(8), may_alias));
};
template <class T>
struct Single {
  typedef T Type;
};

// The first N vectors of the sum that sum_rows computes, in registers
template <class Vector, int N, class S, class T>
static inline void sum_columns(const S* values, const int* columns, long long count, const T* W, long long m, T* z) {
  typedef typename Vector::Type V;
  enum { EACH = sizeof(V) / sizeof(T) };
  V sums[N] = {};
  for (long long k = 0; k < count; ++k) {
    const T x = (T)values[k];
    const T* w = W + columns[k] * m;
    for (int v = 0; v < N; ++v) sums[v] += x * *(const V*)(w + v * EACH);
  }
  for (int v = 0; v < N; ++v) *(V*)(z + v * EACH) = sums[v];
}

// z = sum of values[k] times row columns[k] of W, which has m columns, in the order of the k < count
template <int L, class S, class T>
static inline void sum_rows(const S* values, const int* columns, long long count, const T* W, long long m, T* z) {
  enum { WIDE = 32 / sizeof(T), NARROW = 16 / sizeof(T) };
  long long j = 0;
  for (; j + 8 * WIDE <= m; j += 8 * WIDE) sum_columns<Wide<T>, 8>(values, columns, count, W + j, m, z + j);
  for (; j + 4 * WIDE <= m; j += 4 * WIDE) sum_columns<Wide<T>, 4>(values, columns, count, W + j, m, z + j);
  for (; j + 2 * WIDE <= m; j += 2 * WIDE) sum_columns<Wide<T>, 2>(values, columns, count, W + j, m, z + j);
  for (; j + WIDE <= m; j += WIDE) sum_columns<Wide<T>, 1>(values, columns, count, W + j, m, z + j);
  if (j < m && m >= WIDE) {
    j = m - WIDE;  // some columns again
    sum_columns<Wide<T>, 1>(values, columns, count, W + j, m, z + j);
    return;
  }
  for (; j + NARROW <= m; j += NARROW) sum_columns<Narrow<T>, 1>(values, columns, count, W + j, m, z + j);
  for (; j + 2 <= m; j += 2) sum_columns<Single<T>, 2>(values, columns, count, W + j, m, z + j);
  for (; j < m; ++j) sum_columns<Single<T>, 1>(values, columns, count, W + j, m, z + j);
}

// g += x d, for rows of m columns that do not overlap
template <int L, class T>
static inline void add_scaled_row(T x, const T* d, T* g, long long m) {
  typedef typename Wide<T>::Type V;
  typedef typename Narrow<T>::Type H;
  enum { WIDE = 32 / sizeof(T), NARROW = 16 / sizeof(T) };
  long long j = 0;
  for (; j + WIDE <= m; j += WIDE) *(V*)(g + j) += x * *(const V*)(d + j);
  for (; j + NARROW <= m; j += NARROW) *(H*)(g + j) += x * *(const H*)(d + j);
  for (; j < m; ++j) g[j] += x * d[j];
}

// Philox blocks that one row of the dropout kernel computes, so that the compiler can vectorize over blocks
enum { PHILOX_UNROLL = 64 };

template <int N, class T>
static inline void load_all(const T* x, T* values) {
  for (int e = 0; e < N; ++e) values[e] = x[e];
}

template <int N, class T>
static inline void store_all(const T* values, T* x) {
  for (int e = 0; e < N; ++e) x[e] = values[e];
}
