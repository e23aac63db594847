// exp, expm1, tanh, log1p, log, cospi and sinpi that a compiler turns into vector instructions, for kernels on a CPU.
//
// A call of the C library is executed once per element: GCC vectorizes no loop around it. These functions contain no
// call and no branch, only sums, products, quotients, integer shifts and selections, so a loop around them is
// vectorized. An element has the same bits in a vector, in the remainder after the vectors and on every CPU, because
// nothing is fused or reordered (-ffp-contract=off). A GPU uses CUDA's own functions.
//
// The errors, in units in the last place of the exact result, are at most those of ULP in vector_math.py, for all
// arguments, subnormal ones included. NaN, ±0, ±∞, overflow to ∞ and underflow to 0 are as in C; rounding is to
// nearest, and errno is not set.
//
// eˣ. n = round(x log₂e) results from adding and subtracting 1.5·2ᵖ, where p is the number of digits of the fraction:
// numbers of that size are integers, and the last bits of the sum are n, from which a shift makes 2ⁿ. ln 2 = L₁ + L₂,
// where L₁ is so short that nL₁ is exact; r = (x − nL₁) − nL₂, |r| ≤ ½ ln 2. q = eʳ − 1 = (x − nL₁) − (nL₂ − r²P(r))
// uses the rounded r only in the small term.
//
//     exp x   = (1 + q) 2^⌊n/2⌋ 2^⌈n/2⌉         neither factor is ever subnormal or infinite
//     expm1 x = 2 (q 2ⁿ⁻¹ + (2ⁿ⁻¹ − ½))          and q itself if n = 0
//     tanh x  = sign(x) E/(E + 2)                E = expm1 2|x|
//
// log u. u = 2ᵏ(1 + f), √½ ≤ 1 + f < √2, with k and f from the bits of u. With s = f/(2 + f), log(1 + f) = 2 artanh s:
//
//     log u   = kL₁ + (f − (f²/2 − (s(f²/2 + s²Q(s²)) + kL₂)))
//     log1p x = log u of the rounded u = 1 + x   f increases by 2⁻ᵏc, 1 + x = u + c; the rounding error of that sum is
//                                                added to kL₂
//
// cos πx and sin πx. u = |x| − 2n with the integer n nearest to |x|/2, found as above, is exact, and so is r ≤ ¼, the
// distance from |u| to 0, ½ or 1. One magnitude is cos πr = 1 + r²C(r²), the other sin πr = rπ₁ + r(π₂ + r²S(r²)),
// π = π₁ + π₂. If |x| is so large that all numbers are even integers, u = 0.
//
// Coefficients. P and Q are polynomials fitted to (eʳ − 1 − r)/r² on |r| ≤ ½ ln 2, and to (2 artanh s − 2s)/s³ as a
// function of s² ≤ (3 − 2√2)²: least squares on 160 Chebyshev points in 160 bits, with the error relative to eʳ − 1 and
// to log(1 + f), and weights increased where it is large until the maximum is minimal (Lawson). Then the coefficients
// are rounded one after another from the lowest, and the others fitted again each time. P has degree 5 for float
// (relative error 2^−31.1) and 10 for double (2^−61.6), Q degree 2 (2^−30.2) and 6 (2^−59.5). S and C are fitted in the
// same way to (sin πr − πr)/r³ and (cos πr − 1)/r² as functions of r² ≤ 1/16: S of degree 2 for float (relative error
// of the sine 2^−27.9) and 5 for double (2^−57.9), C of degree 3 (2^−31.0) and 6 (2^−61.2).

#define INLINE static inline __attribute__((always_inline))

// With registers wider than the type (x87), the sums below are rounded differently.
#if !defined(__FLT_EVAL_METHOD__) || __FLT_EVAL_METHOD__ == 0 || __FLT_EVAL_METHOD__ == 16
#define ROUNDS_TO_TYPE 1
#else
#define ROUNDS_TO_TYPE 0
#endif

namespace vector_math {

template <typename T>
struct Format;

template <>
struct Format<float> {
  typedef unsigned Bits;
  static constexpr int digits = 23, bias = 127;
  static constexpr float two_to_digits = 0x1p23f, log2_e = 0x1.715476p+0f, ln2_high = 0x1.62e4p-1f,
                         ln2_low = 0x1.7f7d1cp-20f;
  // beyond these arguments exp is ∞ or 0, expm1 −1, tanh 1
  static constexpr float exp_high = 89.0f, exp_low = -104.0f, expm1_low = -20.0f, tanh_high = 10.0f;
  // the smallest normal number; beyond the second, 1 + x rounds to x; the bits of √½
  static constexpr float min_normal = 0x1p-126f, one_is_negligible = 0x1p40f;
  static constexpr Bits sqrt_half_bits = 0x3f3504f3u;

  INLINE float p(float r, float rr) {
    const float p01 = 0.5f + r * 0x1.555554p-3f, p23 = 0x1.5554f8p-5f + r * 0x1.1112dap-7f;
    const float p45 = 0x1.6d3a3ap-10f + r * 0x1.9e6ef4p-13f;
    return (p01 + rr * p23) + rr * rr * p45;
  }

  INLINE float q(float z) { return 0x1.55557ap-1f + z * (0x1.995ed6p-2f + z * 0x1.31e088p-2f); }

  static constexpr float pi_high = 0x1.921fb6p+1f, pi_low = -0x1.777a5cp-24f;

  INLINE float s(float z) { return -0x1.4abbbep+2f + z * (0x1.465fc4p+1f + z * -0x1.2dbd92p-1f); }

  INLINE float c(float z) { return -0x1.3bd3ccp+2f + z * (0x1.03c1b2p+2f + z * (-0x1.55b43cp+0f + z * 0x1.d579fp-3f)); }
};

template <>
struct Format<double> {
  typedef unsigned long long Bits;
  static constexpr int digits = 52, bias = 1023;
  static constexpr double two_to_digits = 0x1p52, log2_e = 0x1.71547652b82fep+0;
  static constexpr double ln2_high = 0x1.62e42fefa38p-1, ln2_low = 0x1.ef35793c7673p-45;
  static constexpr double exp_high = 710.0, exp_low = -746.0, expm1_low = -40.0, tanh_high = 20.0;
  static constexpr double min_normal = 0x1p-1022, one_is_negligible = 0x1p80;
  static constexpr Bits sqrt_half_bits = 0x3fe6a09e667f3bcdull;

  INLINE double p(double r, double rr) {
    const double p01 = 0.5 + r * 0x1.5555555555559p-3, p23 = 0x1.5555555555558p-5 + r * 0x1.111111110f6ffp-7;
    const double p45 = 0x1.6c16c16c16faap-10 + r * 0x1.a01a01afa69cdp-13;
    const double p67 = 0x1.a01a019c65805p-16 + r * 0x1.71ddf913d8a92p-19;
    const double p89 = 0x1.27e4fb8620051p-22 + r * 0x1.af5d53e4accedp-26, r4 = rr * rr;
    return (p01 + rr * p23) + r4 * ((p45 + rr * p67) + r4 * (p89 + rr * 0x1.1f3696eaaeaecp-29));
  }

  INLINE double q(double z) {
    const double zz = z * z;
    const double even =
        0x1.5555555555592p-1 + zz * (0x1.24924941e0ed7p-2 + zz * (0x1.74663ce9f4061p-3 + zz * 0x1.2f03cb74ae7acp-3));
    const double odd = 0x1.999999997ff20p-2 + zz * (0x1.c71c52148b021p-3 + zz * 0x1.39a1e823835d3p-3);
    return even + z * odd;
  }

  static constexpr double pi_high = 0x1.921fb54442d18p+1, pi_low = 0x1.1a62633145c07p-53;

  INLINE double s(double z) {
    const double zz = z * z;
    const double even = -0x1.4abbce625be46p+2 + zz * (-0x1.32d2cce31f886p-1 + zz * -0x1.e300951c2d4fap-8);
    const double odd = 0x1.466bc67758c69p+1 + zz * (0x1.5078300822edcp-4 + zz * 0x1.e3fe0b0d455b9p-12);
    return even + z * odd;
  }

  INLINE double c(double z) {
    const double zz = z * z;
    const double even = -0x1.3bd3cc9be45dep+2 +
                        zz * (-0x1.55d3c7e3c02cfp+0 + zz * (-0x1.a6d1e2a2526d5p-6 + zz * -0x1.b05080de83515p-14));
    const double odd = 0x1.03c1f081b5a54p+2 + zz * (0x1.e1f506762e09ap-3 + zz * 0x1.f9c50527e5153p-10);
    return even + z * odd;
  }
};

template <typename T>
INLINE typename Format<T>::Bits bits_of(T x) {
  typename Format<T>::Bits bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return bits;
}

template <typename T>
INLINE T from_bits(typename Format<T>::Bits bits) {
  T x;
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
}

// n, q = eʳ − 1, and bits whose last digits are n + offset
template <typename T>
struct ReducedArgument {
  T n, q;
  typename Format<T>::Bits bits;
};

template <typename T>
INLINE ReducedArgument<T> reduce_argument(T x, int offset) {
  typedef Format<T> F;
  const T shift = (T)1.5 * F::two_to_digits + (T)offset, shifted = x * F::log2_e + shift, n = shifted - shift;
  const T high = x - n * F::ln2_high, low = n * F::ln2_low, r = high - low, rr = r * r;
  return {n, high - (low - rr * F::p(r, rr)), bits_of(shifted)};
}

template <typename T>
INLINE T exp_of(T x) {
  typedef Format<T> F;
  const ReducedArgument<T> s = reduce_argument(x, 2 * F::bias);
  const typename F::Bits half = s.bits >> 1;
  const T y = ((T)1 + s.q) * from_bits<T>(half << F::digits) * from_bits<T>((s.bits - half) << F::digits);
  return x > F::exp_high ? (T)INFINITY : (x < F::exp_low ? (T)0 : y);
}

template <typename T>
INLINE T expm1_of(T x) {
  typedef Format<T> F;
  const ReducedArgument<T> s = reduce_argument(x, F::bias - 1);
  const T power = from_bits<T>(s.bits << F::digits), y = (s.q * power + (power - (T)0.5)) * (T)2;
  return x > F::exp_high ? (T)INFINITY : (x < F::expm1_low ? (T)-1 : (s.n == (T)0 ? s.q : y));
}

template <typename T>
INLINE T tanh_of(T x) {
  typedef Format<T> F;
  const T magnitude = std::fabs(x);
  const ReducedArgument<T> s = reduce_argument(magnitude + magnitude, F::bias);
  const T power = from_bits<T>(s.bits << F::digits), e = s.q * power + (power - (T)1);
  return std::copysign(magnitude > F::tanh_high ? (T)1 : e / (e + (T)2), x);
}

// u = 2ᵏ(1 + f), u > 0 and normal; exponent = k + bias
template <typename T>
struct Decomposed {
  T k, f;
  typename Format<T>::Bits exponent;
};

template <typename T>
INLINE Decomposed<T> decompose(T u) {
  typedef Format<T> F;
  typedef typename F::Bits Bits;
  const Bits bits = bits_of(u) + (bits_of((T)1) - F::sqrt_half_bits), exponent = bits >> F::digits;
  const T k = from_bits<T>(bits_of(F::two_to_digits) | exponent) - (F::two_to_digits + (T)F::bias);
  return {k, from_bits<T>((bits & (((Bits)1 << F::digits) - 1)) + F::sqrt_half_bits) - (T)1, exponent};
}

// log(2ᵏ(1 + f)) + rest
template <typename T>
INLINE T log_sum(T k, T f, T rest) {
  typedef Format<T> F;
  const T s = f / ((T)2 + f), z = s * s, h = (T)0.5 * f * f;
  return k * F::ln2_high + (f - (h - (s * (h + z * F::q(z)) + (k * F::ln2_low + rest))));
}

template <typename T>
INLINE T log1p_of(T x) {
  typedef Format<T> F;
  const bool more = x > (T)1;
  const T u = (T)1 + x, c = (more ? (T)1 : x) - (u - (more ? x : (T)1));
  const Decomposed<T> v = decompose(u);
  const T power = from_bits<T>((2 * (typename F::Bits)F::bias - v.exponent) << F::digits);
  // if x is so large that c is negligible, the power may be NaN
  const T d = x < F::one_is_negligible ? c * power : (T)0, f = v.f + d, y = log_sum(v.k, f, d - (f - v.f));
  return std::copysign(x > (T)-1 ? (x < (T)INFINITY ? y : x) : (x == (T)-1 ? (T)INFINITY : (T)NAN), x);
}

template <typename T>
INLINE T log_of(T x) {
  typedef Format<T> F;
  const bool subnormal = x < F::min_normal;
  const Decomposed<T> v = decompose(subnormal ? x * (T)2 * F::two_to_digits : x);
  const T y = log_sum(subnormal ? v.k - (T)(F::digits + 1) : v.k, v.f, (T)0);
  return x > (T)0 ? (x < (T)INFINITY ? y : x) : (x == (T)0 ? -(T)INFINITY : (T)NAN);
}

// |x| − 2n, n the integer nearest to |x|/2; NaN if x is infinite
template <typename T>
INLINE T half_turns(T x) {
  typedef Format<T> F;
  const T magnitude = std::fabs(x), half = (T)0.5 * magnitude;
#if ROUNDS_TO_TYPE
  const T n = (half + F::two_to_digits) - F::two_to_digits;
#else
  const T n = std::nearbyint(half);
#endif
  return magnitude < (T)2 * F::two_to_digits ? magnitude - (T)2 * n : magnitude - magnitude;
}

// |sin πu| and |cos πu|, v = |u|
template <typename T>
struct Magnitudes {
  T v, sine, cosine;
};

template <typename T>
INLINE Magnitudes<T> magnitudes(T u) {
  typedef Format<T> F;
  const T v = std::fabs(u), h = v > (T)0.5 ? (T)1 - v : v;
  const bool swapped = h > (T)0.25;
  const T r = swapped ? (T)0.5 - h : h, z = r * r;
  const T sine = r * F::pi_high + r * (F::pi_low + z * F::s(z)), cosine = (T)1 + z * F::c(z);
  return {v, swapped ? cosine : sine, swapped ? sine : cosine};
}

template <typename T>
INLINE T cospi_of(T x) {
  const Magnitudes<T> m = magnitudes(half_turns(x));
  return std::copysign(m.cosine, (T)0.5 - m.v);
}

template <typename T>
INLINE T sinpi_of(T x) {
  const T u = half_turns(x);
  return std::copysign((T)1, x) * std::copysign(magnitudes(u).sine, u);
}

// overloads by the type of the argument, as in the C++ library
INLINE float exp(float x) { return exp_of(x); }
INLINE double exp(double x) { return exp_of(x); }
INLINE float expm1(float x) { return expm1_of(x); }
INLINE double expm1(double x) { return expm1_of(x); }
INLINE float tanh(float x) { return tanh_of(x); }
INLINE double tanh(double x) { return tanh_of(x); }
INLINE float log1p(float x) { return log1p_of(x); }
INLINE double log1p(double x) { return log1p_of(x); }
INLINE float log(float x) { return log_of(x); }
INLINE double log(double x) { return log_of(x); }
INLINE float cospi(float x) { return cospi_of(x); }
INLINE double cospi(double x) { return cospi_of(x); }
INLINE float sinpi(float x) { return sinpi_of(x); }
INLINE double sinpi(double x) { return sinpi_of(x); }

}  // namespace vector_math

// CUDA has these functions, C++ does not.
#define cospi(x) vector_math::cospi(x)
#define sinpi(x) vector_math::sinpi(x)

// Calls in a kernel mean these functions, or those of the C++ library, which has neither cospi nor sinpi.
#if ROUNDS_TO_TYPE
#define exp(x) vector_math::exp(x)
#define expm1(x) vector_math::expm1(x)
#define tanh(x) vector_math::tanh(x)
#define log1p(x) vector_math::log1p(x)
#define log(x) vector_math::log(x)
#endif
