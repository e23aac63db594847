// Functions for kernels by row on a GPU, where L neighboring threads of a warp (lanes) process a row. L is a power of
// two up to 32. lanes_cpu.h has the same functions for a CPU. Requires pack.h.

// Mask of the lanes that share this thread's row
template <int L>
__device__ unsigned int lane_mask() {
  return (0xffffffffu >> (32 - L)) << (threadIdx.x & 31 & ~(L - 1));
}

// After it, each lane sees what the other lanes of its row have written.
template <int L>
__device__ void sync_lanes() {
  if (L > 1) __syncwarp(lane_mask<L>());
}

// Combined in halves: lane l with lane l + 16, then l + 8 and so on, always in this order
template <int L, class T>
__device__ T sum_lanes(T x) {
  for (int half = L / 2; half > 0; half /= 2) x += __shfl_xor_sync(lane_mask<L>(), x, half);
  return x;
}

template <int L, class T>
__device__ T max_lanes(T x) {
  for (int half = L / 2; half > 0; half /= 2) {
    const T other = __shfl_xor_sync(lane_mask<L>(), x, half);
    x = other > x ? other : x;
  }
  return x;
}

// Index of the largest of m values: the first of equal values; NaN is larger than every number.
template <int L, class T>
__device__ long long row_argmax(const T* a, long long m) {
  const long long lane = threadIdx.x & (L - 1);
  long long best = lane < m ? lane : 0;
  for (long long k = lane + L; k < m; k += L) best = a[best] == a[best] && !(a[k] <= a[best]) ? k : best;
  for (int half = L / 2; half > 0; half /= 2) {
    const long long k = __shfl_xor_sync(lane_mask<L>(), best, half);
    const T x = a[k], y = a[best];
    const bool first = k < best, x_is_nan = x != x, y_is_nan = y != y;
    best = (x_is_nan || y_is_nan) ? (x_is_nan && (first || !y_is_nan) ? k : best)
                                  : (x > y || (x == y && first) ? k : best);
  }
  return best;
}

template <int L, class S, class T>
__device__ void convert_row(const S* from, T* x, long long m) {
  enum { V = sizeof(T) < 16 ? 16 / sizeof(T) : 1 };
  typedef Pack<S, V> From;
  typedef Pack<T, V> Into;
  const long long lane = threadIdx.x & (L - 1);
  long long begin = 0;
  if (is_aligned<From>(from) && is_aligned<Into>(x)) {
    begin = m / V * V;
    for (long long q = lane; q < m / V; q += L) {
      const From read = ((const From*)from)[q];
      Into made;
      for (int e = 0; e < V; ++e) made.e[e] = (T)read.e[e];
      ((Into*)x)[q] = made;
    }
  }
  for (long long k = begin + lane; k < m; k += L) x[k] = (T)from[k];
}

// z = sum of values[k] times row columns[k] of W, which has m columns, in the order of the k < count
template <int L, class S, class T>
__device__ void sum_rows(const S* values, const int* columns, long long count, const T* W, long long m, T* z) {
  for (long long j = threadIdx.x & (L - 1); j < m; j += L) {
    T sum = (T)0;
    for (long long k = 0; k < count; ++k) sum += (T)values[k] * W[columns[k] * m + j];
    z[j] = sum;
  }
}

// g += x d, for rows of m columns that do not overlap
template <int L, class T>
__device__ void add_scaled_row(T x, const T* d, T* g, long long m) {
  for (long long j = threadIdx.x & (L - 1); j < m; j += L) g[j] += x * d[j];
}

// Philox blocks that one row of the dropout kernel computes
enum { PHILOX_UNROLL = 1 };

template <int N, class T>
__device__ void load_all(const T* x, T* values) {
  typedef Pack<T, N> P;
  if (is_aligned<P>(x)) {
    const P read = *(const P*)x;
    for (int e = 0; e < N; ++e) values[e] = read.e[e];
  } else {
    for (int e = 0; e < N; ++e) values[e] = x[e];
  }
}

template <int N, class T>
__device__ void store_all(const T* values, T* x) {
  typedef Pack<T, N> P;
  if (is_aligned<P>(x)) {
    P made;
    for (int e = 0; e < N; ++e) made.e[e] = values[e];
    *(P*)x = made;
  } else {
    for (int e = 0; e < N; ++e) x[e] = values[e];
  }
}
