// __half and __nv_bfloat16: stored in 16 bits, computed in float, rounded to the nearest (ties to even) after every
// operation. Float has more than twice their precision, so rounding twice gives the same as rounding once.
#pragma once

namespace slangrast
{

// A float whose last bit is set when it is not exactly the value ("round to odd"), so that rounding it once more to
// 16 bits gives what rounding the double itself would give.
SLANGRAST_INLINE float round_to_odd(double value)
{
    float nearest = float(value);
    // NaN and infinity have no neighbour to choose.
    if (double(nearest) == value || value != value || nearest - nearest != 0)
        return nearest;
    uint32_t pattern = bits<uint32_t>(nearest);
    if (pattern & 1)
        return nearest;
    bool away_from_zero = __builtin_fabs(double(nearest)) < __builtin_fabs(value);
    return bits<float>(away_from_zero ? pattern + 1 : pattern - 1);
}

#if defined(__FLT16_MANT_DIG__) && (defined(__F16C__) || defined(__aarch64__))

SLANGRAST_INLINE uint16_t half_bits(float value) { return bits<uint16_t>((_Float16)value); }
SLANGRAST_INLINE float half_value(uint16_t pattern) { return float(bits<_Float16>(pattern)); }

#else

SLANGRAST_INLINE uint16_t half_bits(float value)
{
    uint32_t pattern = bits<uint32_t>(value);
    uint32_t sign = pattern >> 16 & 0x8000;
    uint32_t magnitude = pattern & 0x7fffffff;
    if (magnitude > 0x7f800000) // NaN
        return uint16_t(sign | 0x7e00 | magnitude >> 13 & 0x3ff);
    if (magnitude >= 0x47800000) // 65536 and above
        return uint16_t(sign | 0x7c00);
    if (magnitude < 0x38800000) // below 2^-14, where halves are multiples of 2^-24: adding 0.5 rounds to them
        return uint16_t(sign | (bits<uint32_t>(bits<float>(magnitude) + 0.5f) - 0x3f000000));
    uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
    return uint16_t(sign | ((rounded >> 13) - (112 << 10)));
}

SLANGRAST_INLINE float half_value(uint16_t pattern)
{
    uint32_t sign = uint32_t(pattern & 0x8000) << 16;
    uint32_t magnitude = uint32_t(pattern & 0x7fff) << 13;
    if (magnitude >= 0x7c00u << 13) // infinity and NaN
        return bits<float>(sign | magnitude | 0x7f800000);
    // As a float the exponent is 112 too small, for normal and subnormal halves alike.
    return bits<float>(sign | bits<uint32_t>(bits<float>(magnitude) * 0x1p112f));
}

#endif

SLANGRAST_INLINE uint16_t bfloat16_bits(float value)
{
    uint32_t pattern = bits<uint32_t>(value);
    if (value != value)
        return uint16_t(pattern >> 16 | 0x40); // stays a NaN when the low bits go
    return uint16_t((pattern + 0x7fff + (pattern >> 16 & 1)) >> 16);
}

SLANGRAST_INLINE float bfloat16_value(uint16_t pattern) { return bits<float>(uint32_t(pattern) << 16); }

} // namespace slangrast

// The two types differ in how 16 bits become a float and back.
#define SLANGRAST_SHORT_FLOAT(TYPE, TO_BITS, TO_VALUE)                                                                 \
    struct TYPE                                                                                                        \
    {                                                                                                                  \
        uint16_t pattern;                                                                                              \
                                                                                                                       \
        TYPE() = default;                                                                                              \
        SLANGRAST_METHOD TYPE(float value) : pattern(slangrast::TO_BITS(value)) {}                                     \
        SLANGRAST_METHOD TYPE(double value) : TYPE(slangrast::round_to_odd(value)) {}                                  \
        SLANGRAST_METHOD TYPE(int value) : TYPE(double(value)) {}                                                      \
        SLANGRAST_METHOD TYPE(unsigned value) : TYPE(double(value)) {}                                                 \
        SLANGRAST_METHOD TYPE(long value) : TYPE(double(value)) {}                                                     \
        SLANGRAST_METHOD TYPE(unsigned long value) : TYPE(double(value)) {}                                            \
        SLANGRAST_METHOD TYPE(long long value) : TYPE(double(value)) {}                                                \
        SLANGRAST_METHOD TYPE(unsigned long long value) : TYPE(double(value)) {}                                       \
        SLANGRAST_METHOD operator float() const { return slangrast::TO_VALUE(pattern); }                               \
    };                                                                                                                 \
    template<>                                                                                                         \
    inline constexpr bool slangrast::is_floating<TYPE> = true;                                                         \
    SLANGRAST_INLINE TYPE operator+(TYPE a, TYPE b) { return float(a) + float(b); }                                    \
    SLANGRAST_INLINE TYPE operator-(TYPE a, TYPE b) { return float(a) - float(b); }                                    \
    SLANGRAST_INLINE TYPE operator*(TYPE a, TYPE b) { return float(a) * float(b); }                                    \
    SLANGRAST_INLINE TYPE operator/(TYPE a, TYPE b) { return float(a) / float(b); }                                    \
    SLANGRAST_INLINE TYPE operator-(TYPE a)                                                                            \
    {                                                                                                                  \
        a.pattern ^= 0x8000;                                                                                           \
        return a;                                                                                                      \
    }                                                                                                                  \
    SLANGRAST_INLINE TYPE& operator+=(TYPE& a, TYPE b) { return a = a + b; }                                           \
    SLANGRAST_INLINE TYPE& operator-=(TYPE& a, TYPE b) { return a = a - b; }                                           \
    SLANGRAST_INLINE TYPE& operator*=(TYPE& a, TYPE b) { return a = a * b; }                                           \
    SLANGRAST_INLINE TYPE& operator/=(TYPE& a, TYPE b) { return a = a / b; }                                           \
    SLANGRAST_INLINE bool operator==(TYPE a, TYPE b) { return float(a) == float(b); }                                  \
    SLANGRAST_INLINE bool operator!=(TYPE a, TYPE b) { return float(a) != float(b); }                                  \
    SLANGRAST_INLINE bool operator<(TYPE a, TYPE b) { return float(a) < float(b); }                                    \
    SLANGRAST_INLINE bool operator>(TYPE a, TYPE b) { return float(a) > float(b); }                                    \
    SLANGRAST_INLINE bool operator<=(TYPE a, TYPE b) { return float(a) <= float(b); }                                  \
    SLANGRAST_INLINE bool operator>=(TYPE a, TYPE b) { return float(a) >= float(b); }

SLANGRAST_SHORT_FLOAT(__half, half_bits, half_value)
SLANGRAST_SHORT_FLOAT(__nv_bfloat16, bfloat16_bits, bfloat16_value)
#undef SLANGRAST_SHORT_FLOAT

typedef __half half;

SLANGRAST_INLINE slangrast::real __half2float(__half value) { return float(value); }
SLANGRAST_INLINE __half __float2half(slangrast::real value) { return value; }
SLANGRAST_INLINE slangrast::real __bfloat162float(__nv_bfloat16 value) { return float(value); }
SLANGRAST_INLINE __nv_bfloat16 __float2bfloat16(slangrast::real value) { return value; }
SLANGRAST_INLINE __half __ushort_as_half(uint16_t value) { return slangrast::bits<__half>(value); }
SLANGRAST_INLINE __half __short_as_half(int16_t value) { return slangrast::bits<__half>(value); }
SLANGRAST_INLINE uint16_t __half_as_ushort(__half value) { return value.pattern; }
SLANGRAST_INLINE int16_t __half_as_short(__half value) { return int16_t(value.pattern); }
SLANGRAST_INLINE __nv_bfloat16 __ushort_as_bfloat16(uint16_t value) { return slangrast::bits<__nv_bfloat16>(value); }
SLANGRAST_INLINE uint16_t __bfloat16_as_ushort(__nv_bfloat16 value) { return value.pattern; }
