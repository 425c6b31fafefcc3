// The sum over the lanes of a thread, which shaders/soft_rasterizer.slang keeps in an array. As plain code compilers add
// one after the other: reordering is not theirs to do.
#pragma once

namespace slangrast
{

// Half of a power of two of values to the other half, in vectors, until one is left.
template<typename T, size_t N>
SLANGRAST_INLINE T tree_sum(const T* values)
{
    if constexpr (N == 1)
        return values[0];
    else
    {
        typedef T Half __attribute__((vector_size(N / 2 * sizeof(T))));
        Half low, high;
        memcpy(&low, values, sizeof(Half));
        memcpy(&high, values + N / 2, sizeof(Half));
        low += high;
        T sums[N / 2];
        memcpy(sums, &low, sizeof(Half));
        return tree_sum<T, N / 2>(sums);
    }
}

} // namespace slangrast

template<typename T, size_t N>
SLANGRAST_INLINE T slangrast_sum(const FixedArray<T, N>& values)
{
    return slangrast::tree_sum<T, N>(values.m_data);
}
