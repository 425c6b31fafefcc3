// Reading the bits of one type as another. In float64 mode a shader's float has 8 bytes, but its bits are still those
// of a 32-bit float: asuint(1.0) is 0x3f800000 in every mode.
#pragma once

namespace slangrast
{

template<typename T>
struct BitCast
{
    template<typename From>
    SLANGRAST_INLINE T from(const From& value)
    {
        if constexpr (sizeof(T) == sizeof(From))
            return bits<T>(value);
        else if constexpr (is_same<T, double> && sizeof(From) == 4)
            return bits<float>(value);
        else
        {
            static_assert(is_same<From, double> && sizeof(T) == 4, "a bit cast needs types of the same size");
            return bits<T>(float(value));
        }
    }
};

// A vector to a vector of as many elements goes one by one, so that the rule for float64 holds for each of them.
template<typename T, int N>
struct BitCast<Vec<T, N>>
{
    template<typename From>
    SLANGRAST_INLINE Vec<T, N> from(const From& value)
    {
        return bits<Vec<T, N>>(value);
    }

    template<typename From>
    SLANGRAST_INLINE Vec<T, N> from(const Vec<From, N>& value)
    {
        Vec<T, N> result;
        for (int i = 0; i < N; i++)
            result[i] = BitCast<T>::from(value[i]);
        return result;
    }
};

} // namespace slangrast

template<typename To, typename From>
SLANGRAST_INLINE To slang_bit_cast(From value)
{
    return slangrast::BitCast<To>::from(value);
}
