// what a kernel's text finds around it on a GPU, for the host's compiler
#include <math.h>
#include <stddef.h>
#define __device__
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
