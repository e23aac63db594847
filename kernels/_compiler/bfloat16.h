// A bfloat16 as its bit pattern: float32's sign and exponent, with 8 bits of precision. Conversion from float rounds to
// nearest, ties to even, and keeps NaN.
#ifndef GPUNN_DEVICE
#define GPUNN_DEVICE
#endif

struct Bfloat16 {
  unsigned short bits;
  GPUNN_DEVICE Bfloat16() {}
  GPUNN_DEVICE Bfloat16(float x) {
    union {
      float number;
      unsigned int pattern;
    } u;
    u.number = x;
    const unsigned int last = u.pattern >> 16 & 1u;
    bits = (unsigned short)(x != x ? u.pattern >> 16 | 0x40u : (u.pattern + 0x7fffu + last) >> 16);
  }
  GPUNN_DEVICE operator float() const {
    union {
      unsigned int pattern;
      float number;
    } u;
    u.pattern = (unsigned int)bits << 16;
    return u.number;
  }
};
