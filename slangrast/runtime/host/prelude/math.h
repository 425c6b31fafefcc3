// The scalar intrinsics, named by type as slangc writes them: F16_, F32_ and F64_, I8_ to U64_. Each is written once
// below, and takes its names at the end.
#pragma once

namespace slangrast
{

// Straight from the C library or, where there is one, the machine instruction.
#define SLANGRAST_LIBRARY_1(NAME)                                                                                      \
    SLANGRAST_INLINE float NAME(float x) { return __builtin_##NAME##f(x); }                                            \
    SLANGRAST_INLINE double NAME(double x) { return __builtin_##NAME(x); }
#define SLANGRAST_LIBRARY_2(NAME)                                                                                      \
    SLANGRAST_INLINE float NAME(float x, float y) { return __builtin_##NAME##f(x, y); }                                \
    SLANGRAST_INLINE double NAME(double x, double y) { return __builtin_##NAME(x, y); }

SLANGRAST_LIBRARY_1(ceil)
SLANGRAST_LIBRARY_1(floor)
SLANGRAST_LIBRARY_1(trunc)
SLANGRAST_LIBRARY_1(sqrt)
SLANGRAST_LIBRARY_1(sin)
SLANGRAST_LIBRARY_1(cos)
SLANGRAST_LIBRARY_1(tan)
SLANGRAST_LIBRARY_1(asin)
SLANGRAST_LIBRARY_1(acos)
SLANGRAST_LIBRARY_1(atan)
SLANGRAST_LIBRARY_1(sinh)
SLANGRAST_LIBRARY_1(cosh)
SLANGRAST_LIBRARY_1(asinh)
SLANGRAST_LIBRARY_1(acosh)
SLANGRAST_LIBRARY_1(atanh)
SLANGRAST_LIBRARY_2(pow)
SLANGRAST_LIBRARY_2(fmod)
SLANGRAST_LIBRARY_2(remainder)
SLANGRAST_LIBRARY_2(atan2)
#undef SLANGRAST_LIBRARY_1
#undef SLANGRAST_LIBRARY_2

SLANGRAST_INLINE float abs(float x) { return __builtin_fabsf(x); }
SLANGRAST_INLINE double abs(double x) { return __builtin_fabs(x); }
SLANGRAST_INLINE float fma(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
SLANGRAST_INLINE double fma(double x, double y, double z) { return __builtin_fma(x, y, z); }
SLANGRAST_INLINE float frexp(float x, int* exponent) { return __builtin_frexpf(x, exponent); }
SLANGRAST_INLINE double frexp(double x, int* exponent) { return __builtin_frexp(x, exponent); }
SLANGRAST_INLINE float modf(float x, float* whole) { return __builtin_modff(x, whole); }
SLANGRAST_INLINE double modf(double x, double* whole) { return __builtin_modf(x, whole); }

// Halves go away from zero, as CUDA's round does. The number added is the one before one half, because one half itself
// would carry 0.49999997 up to 1.
SLANGRAST_INLINE float round(float x) { return trunc(x + __builtin_copysignf(0x1.fffffep-2f, x)); }
SLANGRAST_INLINE double round(double x) { return trunc(x + __builtin_copysign(0x1.fffffffffffffp-2, x)); }

template<typename T>
SLANGRAST_INLINE T rsqrt(T x)
{
    return T(1) / sqrt(x);
}

template<typename T>
SLANGRAST_INLINE T frac(T x)
{
    return x - floor(x);
}

template<typename T>
SLANGRAST_INLINE bool isnan(T x)
{
    return x != x;
}

template<typename T>
SLANGRAST_INLINE bool isfinite(T x)
{
    return abs(x) <= (is_same<T, float> ? T(0x1.fffffep127) : T(0x1.fffffffffffffp1023));
}

template<typename T>
SLANGRAST_INLINE bool isinf(T x)
{
    return abs(x) == T(__builtin_inf());
}

// One of them NaN: the other is the answer, as in CUDA's fmin and fmax.
template<typename T>
SLANGRAST_INLINE T min(T a, T b)
{
    if constexpr (is_floating<T>)
        return b != b ? a : (a < b ? a : b);
    else
        return a < b ? a : b;
}

template<typename T>
SLANGRAST_INLINE T max(T a, T b)
{
    if constexpr (is_floating<T>)
        return b != b ? a : (a > b ? a : b);
    else
        return a > b ? a : b;
}

// NaN counts as positive, as it does on CUDA.
template<typename T>
SLANGRAST_INLINE int sign(T x)
{
    return x == T(0) ? 0 : (x < T(0) ? -1 : 1);
}

template<typename T>
SLANGRAST_INLINE void sincos(T x, T* sine, T* cosine)
{
    *sine = sin(x);
    *cosine = cos(x);
}

// Integers are widened to 64 bits without their sign where only their bits count.
template<typename T>
SLANGRAST_INLINE uint64_t unsigned_bits(T x)
{
    return sizeof(T) == 8 ? uint64_t(x) : uint64_t(x) & ((uint64_t(1) << 8 * sizeof(T)) - 1);
}

// The least integer has no positive counterpart and stays itself, which a signed negation would leave undefined.
template<typename T>
SLANGRAST_INLINE T integer_abs(T x)
{
    return x < T(0) ? T(0 - unsigned_bits(x)) : x;
}

template<typename T>
SLANGRAST_INLINE uint32_t countbits(T x)
{
    return uint32_t(__builtin_popcountll(unsigned_bits(x)));
}

template<typename T>
SLANGRAST_INLINE uint32_t firstbitlow(T x)
{
    return x == T(0) ? ~0u : uint32_t(__builtin_ctzll(unsigned_bits(x)));
}

// The highest bit that differs from the sign. CUDA's prelude treats 32 unsigned bits as signed here, so we do as well.
template<typename T>
SLANGRAST_INLINE uint32_t firstbithigh(T x)
{
    bool negative = sizeof(T) == 8 ? x < T(0) : int32_t(x) < 0;
    uint64_t pattern = unsigned_bits(negative ? T(~x) : x);
    return pattern == 0 ? ~0u : 63u - uint32_t(__builtin_clzll(pattern));
}

template<typename T>
SLANGRAST_INLINE T reversebits(T x)
{
    uint64_t v = unsigned_bits(x);
    v = (v >> 1 & 0x5555555555555555) | (v & 0x5555555555555555) << 1;
    v = (v >> 2 & 0x3333333333333333) | (v & 0x3333333333333333) << 2;
    v = (v >> 4 & 0x0f0f0f0f0f0f0f0f) | (v & 0x0f0f0f0f0f0f0f0f) << 4;
    return T(__builtin_bswap64(v) >> (64 - 8 * sizeof(T)));
}

} // namespace slangrast

// P is the prefix, T the type it stands for, and C the type that computes.
#define SLANGRAST_FLOAT_1(P, T, C, NAME)                                                                               \
    SLANGRAST_INLINE T P##_##NAME(T x) { return T(slangrast::NAME(C(x))); }
#define SLANGRAST_FLOAT_2(P, T, C, NAME)                                                                               \
    SLANGRAST_INLINE T P##_##NAME(T x, T y) { return T(slangrast::NAME(C(x), C(y))); }
#define SLANGRAST_FLOAT_TEST(P, T, C, NAME)                                                                            \
    SLANGRAST_INLINE bool P##_##NAME(T x) { return slangrast::NAME(C(x)); }
#define SLANGRAST_FLOAT(P, T, C)                                                                                       \
    SLANGRAST_FLOAT_1(P, T, C, abs)                                                                                    \
    SLANGRAST_FLOAT_1(P, T, C, ceil)                                                                                   \
    SLANGRAST_FLOAT_1(P, T, C, floor)                                                                                  \
    SLANGRAST_FLOAT_1(P, T, C, trunc)                                                                                  \
    SLANGRAST_FLOAT_1(P, T, C, round)                                                                                  \
    SLANGRAST_FLOAT_1(P, T, C, frac)                                                                                   \
    SLANGRAST_FLOAT_1(P, T, C, sqrt)                                                                                   \
    SLANGRAST_FLOAT_1(P, T, C, rsqrt)                                                                                  \
    SLANGRAST_FLOAT_1(P, T, C, exp)                                                                                    \
    SLANGRAST_FLOAT_1(P, T, C, exp2)                                                                                   \
    SLANGRAST_FLOAT_1(P, T, C, log)                                                                                    \
    SLANGRAST_FLOAT_1(P, T, C, log2)                                                                                   \
    SLANGRAST_FLOAT_1(P, T, C, log10)                                                                                  \
    SLANGRAST_FLOAT_1(P, T, C, sin)                                                                                    \
    SLANGRAST_FLOAT_1(P, T, C, cos)                                                                                    \
    SLANGRAST_FLOAT_1(P, T, C, tan)                                                                                    \
    SLANGRAST_FLOAT_1(P, T, C, asin)                                                                                   \
    SLANGRAST_FLOAT_1(P, T, C, acos)                                                                                   \
    SLANGRAST_FLOAT_1(P, T, C, atan)                                                                                   \
    SLANGRAST_FLOAT_1(P, T, C, sinh)                                                                                   \
    SLANGRAST_FLOAT_1(P, T, C, cosh)                                                                                   \
    SLANGRAST_FLOAT_1(P, T, C, tanh)                                                                                   \
    SLANGRAST_FLOAT_1(P, T, C, asinh)                                                                                  \
    SLANGRAST_FLOAT_1(P, T, C, acosh)                                                                                  \
    SLANGRAST_FLOAT_1(P, T, C, atanh)                                                                                  \
    SLANGRAST_FLOAT_2(P, T, C, min)                                                                                    \
    SLANGRAST_FLOAT_2(P, T, C, max)                                                                                    \
    SLANGRAST_FLOAT_2(P, T, C, pow)                                                                                    \
    SLANGRAST_FLOAT_2(P, T, C, fmod)                                                                                   \
    SLANGRAST_FLOAT_2(P, T, C, remainder)                                                                              \
    SLANGRAST_FLOAT_2(P, T, C, atan2)                                                                                  \
    SLANGRAST_FLOAT_TEST(P, T, C, isnan)                                                                               \
    SLANGRAST_FLOAT_TEST(P, T, C, isinf)                                                                               \
    SLANGRAST_FLOAT_TEST(P, T, C, isfinite)                                                                            \
    SLANGRAST_INLINE int P##_sign(T x) { return slangrast::sign(C(x)); }                                               \
    SLANGRAST_INLINE T P##_frexp(T x, int* exponent) { return T(slangrast::frexp(C(x), exponent)); }                   \
    SLANGRAST_INLINE void P##_sincos(T x, T* sine, T* cosine)                                                          \
    {                                                                                                                  \
        *sine = P##_sin(x);                                                                                            \
        *cosine = P##_cos(x);                                                                                          \
    }                                                                                                                  \
    SLANGRAST_INLINE T P##_modf(T x, T* whole)                                                                         \
    {                                                                                                                  \
        C computed;                                                                                                    \
        C fraction = slangrast::modf(C(x), &computed);                                                                 \
        *whole = T(computed);                                                                                          \
        return T(fraction);                                                                                            \
    }

SLANGRAST_FLOAT(F16, __half, float)
SLANGRAST_FLOAT(F32, slangrast::real, slangrast::real)
SLANGRAST_FLOAT(F64, double, double)
#undef SLANGRAST_FLOAT
#undef SLANGRAST_FLOAT_1
#undef SLANGRAST_FLOAT_2
#undef SLANGRAST_FLOAT_TEST

// In double, where the product of two halves and its sum with a third round only once.
SLANGRAST_INLINE __half F16_fma(__half x, __half y, __half z) { return double(float(x)) * float(y) + float(z); }
SLANGRAST_INLINE slangrast::real F32_fma(slangrast::real x, slangrast::real y, slangrast::real z)
{
    return slangrast::fma(x, y, z);
}
SLANGRAST_INLINE double F64_fma(double x, double y, double z) { return slangrast::fma(x, y, z); }

#define SLANGRAST_INTEGER(P, T)                                                                                        \
    SLANGRAST_INLINE T P##_abs(T x) { return slangrast::integer_abs(x); }                                              \
    SLANGRAST_INLINE int P##_sign(T x) { return slangrast::sign(x); }                                                  \
    SLANGRAST_INLINE T P##_min(T a, T b) { return slangrast::min(a, b); }                                              \
    SLANGRAST_INLINE T P##_max(T a, T b) { return slangrast::max(a, b); }                                              \
    SLANGRAST_INLINE uint32_t P##_countbits(T x) { return slangrast::countbits(x); }                                   \
    SLANGRAST_INLINE uint32_t P##_firstbitlow(T x) { return slangrast::firstbitlow(x); }                               \
    SLANGRAST_INLINE uint32_t P##_firstbithigh(T x) { return slangrast::firstbithigh(x); }                             \
    SLANGRAST_INLINE T P##_reversebits(T x) { return slangrast::reversebits(x); }

SLANGRAST_INTEGER(I8, int8_t)
SLANGRAST_INTEGER(I16, int16_t)
SLANGRAST_INTEGER(I32, int32_t)
SLANGRAST_INTEGER(I64, int64_t)
SLANGRAST_INTEGER(IPTR, intptr_t)
SLANGRAST_INTEGER(U8, uint8_t)
SLANGRAST_INTEGER(U16, uint16_t)
SLANGRAST_INTEGER(U32, uint32_t)
SLANGRAST_INTEGER(U64, uint64_t)
SLANGRAST_INTEGER(UPTR, uintptr_t)
#undef SLANGRAST_INTEGER

SLANGRAST_INLINE uint16_t F16_asuint(__half x) { return x.pattern; }
SLANGRAST_INLINE int16_t F16_asint(__half x) { return int16_t(x.pattern); }
SLANGRAST_INLINE uint32_t F32_asuint(slangrast::real x) { return slangrast::bits<uint32_t>(float(x)); }
SLANGRAST_INLINE int32_t F32_asint(slangrast::real x) { return slangrast::bits<int32_t>(float(x)); }
SLANGRAST_INLINE slangrast::real U32_asfloat(uint32_t x) { return slangrast::bits<float>(x); }
SLANGRAST_INLINE slangrast::real I32_asfloat(int32_t x) { return slangrast::bits<float>(x); }
SLANGRAST_INLINE uint32_t U32_asint(int32_t x) { return uint32_t(x); }
SLANGRAST_INLINE uint32_t I32_asuint(int32_t x) { return uint32_t(x); }
SLANGRAST_INLINE double U32_asdouble(uint32_t low, uint32_t high)
{
    return slangrast::bits<double>(uint64_t(high) << 32 | low);
}
SLANGRAST_INLINE double I32_asdouble(int32_t low, int32_t high) { return U32_asdouble(uint32_t(low), uint32_t(high)); }
SLANGRAST_INLINE void F64_asuint(double x, uint32_t* low, uint32_t* high)
{
    uint64_t pattern = slangrast::bits<uint64_t>(x);
    *low = uint32_t(pattern);
    *high = uint32_t(pattern >> 32);
}
SLANGRAST_INLINE void F64_asint(double x, int32_t* low, int32_t* high)
{
    uint32_t unsigned_low, unsigned_high;
    F64_asuint(x, &unsigned_low, &unsigned_high);
    *low = int32_t(unsigned_low);
    *high = int32_t(unsigned_high);
}

SLANGRAST_INLINE slangrast::real _slang_fmod(slangrast::real x, slangrast::real y) { return slangrast::fmod(x, y); }

// CUDA's own names, which a shader can reach through inline CUDA or the core module.
SLANGRAST_INLINE int __popc(uint32_t x) { return __builtin_popcount(x); }
SLANGRAST_INLINE int _popc(uint32_t x) { return __builtin_popcount(x); }
SLANGRAST_INLINE int __popcll(uint64_t x) { return __builtin_popcountll(x); }
SLANGRAST_INLINE int __clz(uint32_t x) { return x == 0 ? 32 : __builtin_clz(x); }
SLANGRAST_INLINE int __clzll(uint64_t x) { return x == 0 ? 64 : __builtin_clzll(x); }
SLANGRAST_INLINE int __ffs(int x) { return __builtin_ffs(x); }
SLANGRAST_INLINE int __ffsll(int64_t x) { return __builtin_ffsll(x); }
SLANGRAST_INLINE uint32_t __brev(uint32_t x) { return slangrast::reversebits(x); }
SLANGRAST_INLINE uint64_t __brevll(uint64_t x) { return slangrast::reversebits(x); }
SLANGRAST_INLINE int __float_as_int(slangrast::real x) { return F32_asint(x); }
SLANGRAST_INLINE uint __float_as_uint(slangrast::real x) { return F32_asuint(x); }
SLANGRAST_INLINE slangrast::real __int_as_float(int x) { return I32_asfloat(x); }
SLANGRAST_INLINE slangrast::real __uint_as_float(uint x) { return U32_asfloat(x); }
template<typename T>
SLANGRAST_INLINE T __ldg(const T* address)
{
    return *address;
}

extern "C" long clock(void) noexcept;
SLANGRAST_INLINE longlong clock64()
{
#if defined(__x86_64__)
    return longlong(__builtin_ia32_rdtsc());
#else
    return clock();
#endif
}

// debugBreak(): stops a debugger, and ends the process where there is none.
SLANGRAST_INLINE void __brkpt()
{
#if defined(__x86_64__)
    asm volatile("int3");
#else
    __builtin_trap();
#endif
}
