// VECTOR_LOOP before a loop states that its iterations are independent, even if it writes over an array that it reads.
#if defined(__CUDACC__) || defined(__HIPCC__)
#define VECTOR_LOOP
#elif defined(__clang__)
#define VECTOR_LOOP _Pragma("clang loop vectorize(assume_safety)")
#else
#define VECTOR_LOOP _Pragma("GCC ivdep")
#endif
