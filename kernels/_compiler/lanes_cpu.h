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
