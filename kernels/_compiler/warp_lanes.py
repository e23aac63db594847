"""The lanes that share a row: what a by-row text says of them, on a CPU and on a GPU.

A row belongs to a team of LANES lanes, a power of two up to 32, and the text is run by each of them with a LANE of its
own. On a CPU, and on a GPU where rows are short, there is one lane, and a text is what it would be without them. On a
GPU lanes are neighbours within a warp, so that

    for (long long k = LANE; k < m; k += LANES) sum += x[k];
    sum = sum_lanes<LANES>(sum);

reads a row in whole lines of memory. What one lane wrote another may read behind `sync_lanes<LANES>()`; an element
output
comes from lane 0. Sums of lanes are taken in halves, lane l with l + 16, then l + 8 and so on: the same order always.
"""

from __future__ import annotations

import re

WARP = 32
_SHARED = re.compile(r"\bLANES\b")


def uses_lanes(text: str) -> bool:
    """Whether a by-row text says what each of several lanes does."""
    return _SHARED.search(text) is not None


def row_sum(each: str, then: str, first: str = "", of: str = "T") -> str:
    """The by-row text that takes the `sum`, of type `of`, of what `each` adds to it for every k to `then`."""
    return f"""
{of} sum = ({of})0;
{first}
for (long long k = LANE; k < m; k += LANES) {{ {each} }}
sum = sum_lanes<LANES>(sum);
{then}
"""


# of equal values the first counts, and NaN for the largest
_BEST = "best = a[best] == a[best] && !(a[k] <= a[best]) ? k : best;"

ON_HOST = f"""
enum {{ LANE = 0, LANES = 1 }};
template <int L> static inline void sync_lanes() {{}}
template <int L, class T> static inline T sum_lanes(T x) {{ return x; }}
template <int L, class T> static inline T max_lanes(T x) {{ return x; }}
template <int L, class T> static inline long long row_argmax(const T* a, long long m) {{
  long long best = 0;
  for (long long k = 1; k < m; ++k) {_BEST}
  return best;
}}
template <int L, class S, class T> static inline void convert_row(const S* from, T* x, long long m) {{
  for (long long k = 0; k < m; ++k) x[k] = (T)from[k];
}}
enum {{ PHILOX_UNROLL = 64 }};
template <int N, class T> static inline void load_all(const T* x, T* held) {{
  for (int e = 0; e < N; ++e) held[e] = x[e];
}}
template <int N, class T> static inline void store_all(const T* held, T* x) {{
  for (int e = 0; e < N; ++e) x[e] = held[e];
}}
"""

# V elements that are read and written at once, 16 bytes a time
PACKS = """
template <class T, int V> struct alignas(V * sizeof(T) < 16 ? V * sizeof(T) : 16) Pack { T e[V]; };
template <class P> __device__ bool is_whole(const void* at) { return (size_t)at % alignof(P) == 0; }
"""

ON_DEVICE = f"""{PACKS}
template <int L> __device__ unsigned int team() {{
  return (0xffffffffu >> (32 - L)) << (threadIdx.x & 31 & ~(L - 1));
}}
template <int L> __device__ void sync_lanes() {{ if (L > 1) __syncwarp(team<L>()); }}
template <int L, class T> __device__ T sum_lanes(T x) {{
  for (int half = L / 2; half > 0; half /= 2) x += __shfl_xor_sync(team<L>(), x, half);
  return x;
}}
template <int L, class T> __device__ T max_lanes(T x) {{
  for (int half = L / 2; half > 0; half /= 2) {{
    const T other = __shfl_xor_sync(team<L>(), x, half);
    x = other > x ? other : x;
  }}
  return x;
}}
template <int L, class T> __device__ long long row_argmax(const T* a, long long m) {{
  const long long lane = threadIdx.x & (L - 1);
  long long best = lane < m ? lane : 0;
  for (long long k = lane + L; k < m; k += L) {_BEST}
  for (int half = L / 2; half > 0; half /= 2) {{
    const long long k = __shfl_xor_sync(team<L>(), best, half);
    const T x = a[k], y = a[best];
    const bool first = k < best, lost = x != x, lost_too = y != y;
    best = (lost || lost_too) ? (lost && (first || !lost_too) ? k : best) : (x > y || (x == y && first) ? k : best);
  }}
  return best;
}}
template <int L, class S, class T> __device__ void convert_row(const S* from, T* x, long long m) {{
  enum {{ V = sizeof(T) < 16 ? 16 / sizeof(T) : 1 }};
  typedef Pack<S, V> From;
  typedef Pack<T, V> Into;
  const long long lane = threadIdx.x & (L - 1);
  long long begin = 0;
  if (is_whole<From>(from) && is_whole<Into>(x)) {{
    begin = m / V * V;
    for (long long q = lane; q < m / V; q += L) {{
      const From read = ((const From*)from)[q];
      Into made;
      for (int e = 0; e < V; ++e) made.e[e] = (T)read.e[e];
      ((Into*)x)[q] = made;
    }}
  }}
  for (long long k = begin + lane; k < m; k += L) x[k] = (T)from[k];
}}
enum {{ PHILOX_UNROLL = 1 }};
template <int N, class T> __device__ void load_all(const T* x, T* held) {{
  typedef Pack<T, N> P;
  if (is_whole<P>(x)) {{
    const P read = *(const P*)x;
    for (int e = 0; e < N; ++e) held[e] = read.e[e];
  }} else for (int e = 0; e < N; ++e) held[e] = x[e];
}}
template <int N, class T> __device__ void store_all(const T* held, T* x) {{
  typedef Pack<T, N> P;
  if (is_whole<P>(x)) {{
    P made;
    for (int e = 0; e < N; ++e) made.e[e] = held[e];
    *(P*)x = made;
  }} else for (int e = 0; e < N; ++e) x[e] = held[e];
}}
"""
