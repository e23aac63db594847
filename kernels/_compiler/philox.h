// Ten rounds of Philox4x32 on BLOCKS counters (c0[q], c1[q], c2[q], c3[q]) under one key (k0, k1).
#ifndef GPUNN_DEVICE
#define GPUNN_DEVICE
#endif

template <int BLOCKS>
GPUNN_DEVICE static inline __attribute__((always_inline)) void philox_rounds(unsigned int* c0, unsigned int* c1,
                                                                             unsigned int* c2, unsigned int* c3,
                                                                             unsigned int k0, unsigned int k1) {
  for (int round = 0; round < 10; ++round) {
    for (int q = 0; q < BLOCKS; ++q) {
      const unsigned long long p0 = 0xD2511F53ULL * c0[q], p1 = 0xCD9E8D57ULL * c2[q];
      const unsigned int n0 = (unsigned int)(p1 >> 32) ^ c1[q] ^ k0, n2 = (unsigned int)(p0 >> 32) ^ c3[q] ^ k1;
      c1[q] = (unsigned int)p1;
      c3[q] = (unsigned int)p0;
      c0[q] = n0;
      c2[q] = n2;
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
}
