// exp, log and tanh of floats without a branch or a call, so that a loop around them becomes vector instructions.
// Polynomials are minimax fits of the relative error on the reduced range. Results are within 2 ulp of the exact value
// (measured: exp 1.65, exp2 1.40, log 0.95, log2 1.11, log10 1.08, tanh 1.62, given fused
// multiply-add), but those below 2^-126 may be flushed to zero. Doubles go to the C library.
#pragma once

// Where the order of a sum carries its accuracy, options that let sums be reordered must leave it alone: clang is told
// so once in a function, g++ at the subexpression to compute first.
#if defined(__clang__)
#define SLANGRAST_IN_ORDER _Pragma("clang fp reassociate(off)")
#define SLANGRAST_FIRST(expression) (expression)
#elif defined(__GNUC__) && __GNUC__ >= 12
#define SLANGRAST_IN_ORDER
#define SLANGRAST_FIRST(expression) __builtin_assoc_barrier(expression)
#else
#define SLANGRAST_IN_ORDER
#define SLANGRAST_FIRST(expression) (expression)
#endif

namespace slangrast
{

// 2^k for a whole number k from -127, where it is flushed to zero, to 128, where it is infinite. The sum has a unit in
// its last place of 1, so k + 127 is in its low bits: moved up, they are the exponent field of the result.
SLANGRAST_INLINE float power_of_two(float k)
{
    float sum = k + (0x1.8p23f + 127.0f);
    return bits<float>(bits<uint32_t>(sum) << 23);
}

// x = k ln 2 + r with r in [0, ln 2), so exp(x) = 2^k exp(r).
SLANGRAST_INLINE float exp(float x)
{
    SLANGRAST_IN_ORDER
    x = x > 89.0f ? 89.0f : x;
    x = x < -88.0f ? -88.0f : x;
    float k = __builtin_floorf(x * 0x1.715476p0f);
    // ln 2 in two parts, the first short enough that its product with k is exact.
    float r = SLANGRAST_FIRST(x - k * 0x1.63p-1f) + k * 0x1.bd0106p-13f;
    float p = 0x1.fedbe4p-10f;
    p = p * r + 0x1.feac92p-8f;
    p = p * r + 0x1.575e1ep-5f;
    p = p * r + 0x1.5537b2p-3f;
    p = p * r + 0x1.0000c4p-1f;
    p = p * r + 0x1.fffffap-1f;
    p = p * r + 1.0f;
    return p * power_of_two(k);
}

SLANGRAST_INLINE float exp2(float x)
{
    x = x > 128.0f ? 128.0f : x;
    x = x < -127.0f ? -127.0f : x;
    float k = __builtin_floorf(x);
    float r = x - k;
    float p = 0x1.c54188p-13f;
    p = p * r + 0x1.46d646p-10f;
    p = p * r + 0x1.3d0b92p-7f;
    p = p * r + 0x1.c68912p-5f;
    p = p * r + 0x1.ebfd58p-3f;
    p = p * r + 0x1.62e42cp-1f;
    p = p * r + 1.0f;
    return p * power_of_two(k);
}

// x = 2^exponent * (1 + fraction), 1 + fraction in [sqrt(1/2), sqrt(2)), for x above zero.
struct LogParts
{
    float exponent;
    float fraction;
};

SLANGRAST_INLINE LogParts log_parts(float x)
{
    // Scale subnormal numbers up, because their exponent field says nothing.
    bool subnormal = x < 0x1p-126f;
    float scaled = subnormal ? x * 0x1p23f : x;
    uint32_t pattern = bits<uint32_t>(scaled) - 0x3f3504f3; // less sqrt(1/2)
    int32_t exponent = int32_t(pattern) >> 23;
    float mantissa = bits<float>((pattern & 0x7fffff) + 0x3f3504f3);
    return {float(exponent) - (subnormal ? 23.0f : 0.0f), mantissa - 1.0f};
}

// log(1 + f) - f, for f in [sqrt(1/2) - 1, sqrt(2) - 1).
SLANGRAST_INLINE float log1p_remainder(float f)
{
    float p = -0x1.38b4e2p-4f;
    p = p * f + 0x1.055b58p-3f;
    p = p * f - 0x1.0d8556p-3f;
    p = p * f + 0x1.22da20p-3f;
    p = p * f - 0x1.547242p-3f;
    p = p * f + 0x1.99a008p-3f;
    p = p * f - 0x1.000228p-2f;
    p = p * f + 0x1.555554p-2f;
    return f * f * (p * f - 0.5f);
}

// The logarithm's values where x is not a positive finite number.
SLANGRAST_INLINE float log_edges(float x, float value)
{
    value = x < __builtin_inff() ? value : x; // infinity and NaN are their own logarithm
    value = x > 0.0f ? value : (x == 0.0f ? -__builtin_inff() : __builtin_nanf(""));
    return value;
}

SLANGRAST_INLINE float log(float x)
{
    SLANGRAST_IN_ORDER
    LogParts parts = log_parts(x);
    float small = SLANGRAST_FIRST(log1p_remainder(parts.fraction) - parts.exponent * 0x1.bd0106p-13f);
    return log_edges(x, SLANGRAST_FIRST(small + parts.fraction) + parts.exponent * 0x1.63p-1f);
}

// log(x) / log(2) and log(x) / log(10): each factor is split in a larger part and the rest.
SLANGRAST_INLINE float log2(float x)
{
    SLANGRAST_IN_ORDER
    LogParts parts = log_parts(x);
    float remainder = log1p_remainder(parts.fraction);
    float small = SLANGRAST_FIRST(remainder * 0x1.715476p0f + parts.fraction * 0x1.4ae0cp-26f);
    return log_edges(x, SLANGRAST_FIRST(small + parts.fraction * 0x1.715476p0f) + parts.exponent);
}

SLANGRAST_INLINE float log10(float x)
{
    SLANGRAST_IN_ORDER
    LogParts parts = log_parts(x);
    float remainder = log1p_remainder(parts.fraction);
    float small = remainder * 0x1.bcb7b2p-2f + parts.exponent * 0x1.3509f8p-18f;
    small = SLANGRAST_FIRST(small - parts.fraction * 0x1.5b235ep-27f);
    return log_edges(x, SLANGRAST_FIRST(small + parts.fraction * 0x1.bcb7b2p-2f) + parts.exponent * 0x1.344p-2f);
}

SLANGRAST_INLINE float tanh(float x)
{
    float size = __builtin_fabsf(x);
    float square = x * x;
    float p = -0x1.963d56p-8f;
    p = p * square + 0x1.58669ap-6f;
    p = p * square - 0x1.b90fc0p-5f;
    p = p * square + 0x1.110c98p-3f;
    p = p * square - 0x1.555548p-2f;
    float near_zero = size + size * square * p;
    float distant = 1.0f - 2.0f / (exp(2.0f * size) + 1.0f);
    return __builtin_copysignf(size < 0.55f ? near_zero : distant, x);
}

SLANGRAST_INLINE double exp(double x) { return __builtin_exp(x); }
SLANGRAST_INLINE double exp2(double x) { return __builtin_exp2(x); }
SLANGRAST_INLINE double log(double x) { return __builtin_log(x); }
SLANGRAST_INLINE double log2(double x) { return __builtin_log2(x); }
SLANGRAST_INLINE double log10(double x) { return __builtin_log10(x); }
SLANGRAST_INLINE double tanh(double x) { return __builtin_tanh(x); }

} // namespace slangrast

#undef SLANGRAST_IN_ORDER
#undef SLANGRAST_FIRST
