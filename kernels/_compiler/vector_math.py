"""exp, expm1, tanh, log1p and log in C++ that a compiler turns into vector instructions, for the texts on a CPU.

A call into the C library stays a call for every element: GCC vectorises no loop around it. These functions have no call
and no branch, only sums, products, quotients, integer shifts and selects, so the loop around them is vectorised, and an
element comes out the same in a vector, in the remainder behind it and on any CPU: nothing is fused or reordered
(-ffp-contract=off). A GPU keeps CUDA's own functions.

Errors are at most `ULP`, in units in the last place of the exact result, for all arguments, subnormal ones included.
NaN, ±0, ±∞, overflow to ∞ and underflow to 0 come out as in C; rounding is to nearest, and errno is not set.

**e^x.** n = round(x log₂e) is had by adding and taking off 1.5·2ᵖ, p the digits of the fraction: numbers of that size
are whole, and the last bits of the sum are n itself, from where a shift makes 2ⁿ. ln 2 = L₁ + L₂ with L₁ so short that
nL₁ is exact, r = (x − nL₁) − nL₂, |r| ≤ ½ ln 2, and q = e^r − 1 = (x − nL₁) − (nL₂ − r²P(r)): there r is only rounded
where little hangs on it.

    exp x   = (1 + q) 2^⌊n/2⌋ 2^⌈n/2⌉         two factors: either alone is never subnormal or infinite
    expm1 x = 2 (q 2ⁿ⁻¹ + (2ⁿ⁻¹ − ½))          and q itself where n = 0
    tanh x  = sign(x) E/(E + 2)                E = expm1 2|x|

**log u.** u = 2ᵏ(1 + f), √½ ≤ 1 + f < √2, k and f from the bits of u. With s = f/(2 + f), log(1 + f) = 2 artanh s:

    log u   = kL₁ + (f − (f²/2 − (s(f²/2 + s²Q(s²)) + kL₂)))
    log1p x = log u of the rounded u = 1 + x   f gains 2⁻ᵏc, 1 + x = u + c, and what that sum loses joins kL₂

**Coefficients.** P and Q are polynomials fitted to (e^r − 1 − r)/r² on |r| ≤ ½ ln 2 and to (2 artanh s − 2s)/s³ as a
function of s² ≤ (3 − 2√2)²: least squares on 160 Chebyshev points in 160 bits, the error taken relative to e^r − 1 and
to log(1 + f), its weights raised where it is large until the largest is least (Lawson); then the coefficients rounded
one by one from the lowest, the others fitted again each time. P has degree 5 for float (relative error 2^−31.1) and 10
for double (2^−61.6), Q degree 2 (2^−30.2) and 6 (2^−59.5).
"""

from __future__ import annotations

# the largest error, in units in the last place of the exact result; among all floats and 15 million doubles for each
# function 0.91, 1.71, 2.48, 0.92 and 0.86 were found
ULP = {"exp": 1.0, "expm1": 2.0, "tanh": 3.0, "log1p": 1.0, "log": 1.0}

_FUNCTIONS = r"""
#define INLINE static inline __attribute__((always_inline))

namespace vector_math {

template <typename T> struct Format;

template <> struct Format<float> {
  typedef unsigned Bits;
  static constexpr int digits = 23, bias = 127;
  static constexpr float whole = 0x1p23f, log2_e = 0x1.715476p+0f, ln2_high = 0x1.62e4p-1f, ln2_low = 0x1.7f7d1cp-20f;
  // beyond these exp is ∞ and 0, expm1 −1, tanh 1
  static constexpr float exp_high = 89.0f, exp_low = -104.0f, expm1_low = -20.0f, tanh_high = 10.0f;
  // the least normal number; from where on 1 + x is x; the bits of √½
  static constexpr float normal = 0x1p-126f, large = 0x1p40f;
  static constexpr Bits root_half = 0x3f3504f3u;

  INLINE float p(float r, float rr) {
    const float p01 = 0.5f + r * 0x1.555554p-3f, p23 = 0x1.5554f8p-5f + r * 0x1.1112dap-7f;
    const float p45 = 0x1.6d3a3ap-10f + r * 0x1.9e6ef4p-13f;
    return (p01 + rr * p23) + rr * rr * p45;
  }

  INLINE float q(float z) { return 0x1.55557ap-1f + z * (0x1.995ed6p-2f + z * 0x1.31e088p-2f); }
};

template <> struct Format<double> {
  typedef unsigned long long Bits;
  static constexpr int digits = 52, bias = 1023;
  static constexpr double whole = 0x1p52, log2_e = 0x1.71547652b82fep+0;
  static constexpr double ln2_high = 0x1.62e42fefa38p-1, ln2_low = 0x1.ef35793c7673p-45;
  static constexpr double exp_high = 710.0, exp_low = -746.0, expm1_low = -40.0, tanh_high = 20.0;
  static constexpr double normal = 0x1p-1022, large = 0x1p80;
  static constexpr Bits root_half = 0x3fe6a09e667f3bcdull;

  INLINE double p(double r, double rr) {
    const double p01 = 0.5 + r * 0x1.5555555555559p-3, p23 = 0x1.5555555555558p-5 + r * 0x1.111111110f6ffp-7;
    const double p45 = 0x1.6c16c16c16faap-10 + r * 0x1.a01a01afa69cdp-13;
    const double p67 = 0x1.a01a019c65805p-16 + r * 0x1.71ddf913d8a92p-19;
    const double p89 = 0x1.27e4fb8620051p-22 + r * 0x1.af5d53e4accedp-26, r4 = rr * rr;
    return (p01 + rr * p23) + r4 * ((p45 + rr * p67) + r4 * (p89 + rr * 0x1.1f3696eaaeaecp-29));
  }

  INLINE double q(double z) {
    const double zz = z * z;
    const double even = 0x1.5555555555592p-1 + zz * (0x1.24924941e0ed7p-2 + zz * (0x1.74663ce9f4061p-3
        + zz * 0x1.2f03cb74ae7acp-3));
    const double odd = 0x1.999999997ff20p-2 + zz * (0x1.c71c52148b021p-3 + zz * 0x1.39a1e823835d3p-3);
    return even + z * odd;
  }
};

template <typename T> INLINE typename Format<T>::Bits bits_of(T x) {
  typename Format<T>::Bits bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return bits;
}

template <typename T> INLINE T from_bits(typename Format<T>::Bits bits) {
  T x;
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
}

// n, q = e^r − 1, and bits whose last ones are n + more
template <typename T> struct Reduced { T n, q; typename Format<T>::Bits bits; };

template <typename T> INLINE Reduced<T> reduced(T x, int more) {
  typedef Format<T> F;
  const T shift = (T)1.5 * F::whole + (T)more, shifted = x * F::log2_e + shift, n = shifted - shift;
  const T high = x - n * F::ln2_high, low = n * F::ln2_low, r = high - low, rr = r * r;
  return {n, high - (low - rr * F::p(r, rr)), bits_of(shifted)};
}

template <typename T> INLINE T exp_of(T x) {
  typedef Format<T> F;
  const Reduced<T> s = reduced(x, 2 * F::bias);
  const typename F::Bits half = s.bits >> 1;
  const T y = ((T)1 + s.q) * from_bits<T>(half << F::digits) * from_bits<T>((s.bits - half) << F::digits);
  return x > F::exp_high ? (T)INFINITY : (x < F::exp_low ? (T)0 : y);
}

template <typename T> INLINE T expm1_of(T x) {
  typedef Format<T> F;
  const Reduced<T> s = reduced(x, F::bias - 1);
  const T power = from_bits<T>(s.bits << F::digits), y = (s.q * power + (power - (T)0.5)) * (T)2;
  return x > F::exp_high ? (T)INFINITY : (x < F::expm1_low ? (T)-1 : (s.n == (T)0 ? s.q : y));
}

template <typename T> INLINE T tanh_of(T x) {
  typedef Format<T> F;
  const T size = std::fabs(x);
  const Reduced<T> s = reduced(size + size, F::bias);
  const T power = from_bits<T>(s.bits << F::digits), e = s.q * power + (power - (T)1);
  return std::copysign(size > F::tanh_high ? (T)1 : e / (e + (T)2), x);
}

// u = 2ᵏ(1 + f), u > 0 and normal; the exponent is k + bias
template <typename T> struct Split { T k, f; typename Format<T>::Bits exponent; };

template <typename T> INLINE Split<T> split(T u) {
  typedef Format<T> F;
  typedef typename F::Bits Bits;
  const Bits bits = bits_of(u) + (bits_of((T)1) - F::root_half), exponent = bits >> F::digits;
  const T k = from_bits<T>(bits_of(F::whole) | exponent) - (F::whole + (T)F::bias);
  return {k, from_bits<T>((bits & (((Bits)1 << F::digits) - 1)) + F::root_half) - (T)1, exponent};
}

// log(2ᵏ(1 + f)) + rest
template <typename T> INLINE T log_sum(T k, T f, T rest) {
  typedef Format<T> F;
  const T s = f / ((T)2 + f), z = s * s, h = (T)0.5 * f * f;
  return k * F::ln2_high + (f - (h - (s * (h + z * F::q(z)) + (k * F::ln2_low + rest))));
}

template <typename T> INLINE T log1p_of(T x) {
  typedef Format<T> F;
  const bool more = x > (T)1;
  const T u = (T)1 + x, c = (more ? (T)1 : x) - (u - (more ? x : (T)1));
  const Split<T> v = split(u);
  const T power = from_bits<T>((2 * (typename F::Bits)F::bias - v.exponent) << F::digits);
  // where c is nothing beside x the power may not be a number
  const T d = x < F::large ? c * power : (T)0, f = v.f + d, y = log_sum(v.k, f, d - (f - v.f));
  return std::copysign(x > (T)-1 ? (x < (T)INFINITY ? y : x) : (x == (T)-1 ? (T)INFINITY : (T)NAN), x);
}

template <typename T> INLINE T log_of(T x) {
  typedef Format<T> F;
  const bool subnormal = x < F::normal;
  const Split<T> v = split(subnormal ? x * (T)2 * F::whole : x);
  const T y = log_sum(subnormal ? v.k - (T)(F::digits + 1) : v.k, v.f, (T)0);
  return x > (T)0 ? (x < (T)INFINITY ? y : x) : (x == (T)0 ? -(T)INFINITY : (T)NAN);
}
"""

# by the argument's type, as the C++ library has them; a text's own calls mean these. With registers wider than the
# type (x87) the sums above would not round as they must, and the library's functions stay
_OVERLOADS = [f"INLINE {t} {name}({t} x) {{ return {name}_of(x); }}" for name in ULP for t in ("float", "double")]
_CALLS = [f"#define {name}(x) vector_math::{name}(x)" for name in ULP]

TEXT = "\n".join(
    [
        _FUNCTIONS,
        *_OVERLOADS,
        "}",
        "#if !defined(__FLT_EVAL_METHOD__) || __FLT_EVAL_METHOD__ == 0 || __FLT_EVAL_METHOD__ == 16",
        *_CALLS,
        "#endif",
    ]
)
