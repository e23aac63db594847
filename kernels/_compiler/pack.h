// V elements that are loaded or stored with instructions of up to 16 bytes.
template <class T, int V>
struct alignas(V * sizeof(T) < 16 ? V * sizeof(T) : 16) Pack {
  T e[V];
};

template <class P>
__device__ bool is_aligned(const void* at) {
  return (size_t)at % alignof(P) == 0;
}
