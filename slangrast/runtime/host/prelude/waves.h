// Wave operations for a wave of one lane: a reduction is the value itself, a prefix is what precedes it, namely
// nothing, and every question about the other lanes answers itself.
#pragma once

typedef int WarpMask;
static const int warpSize = 1;

SLANGRAST_INLINE uint32_t _getLaneId() { return 0; }
SLANGRAST_INLINE WarpMask _getLaneLtMask() { return 0; }
SLANGRAST_INLINE WarpMask _getActiveMask() { return 1; }
SLANGRAST_INLINE WarpMask _getMultiPrefixMask(int mask) { return mask; }
SLANGRAST_INLINE bool _waveIsFirstLane() { return true; }
SLANGRAST_INLINE bool _waveIsSingleLane(WarpMask) { return true; }
SLANGRAST_INLINE uint __activemask() { return 1; }
SLANGRAST_INLINE uint __ballot_sync(uint, bool condition) { return condition; }
SLANGRAST_INLINE int __all_sync(uint, bool condition) { return condition; }
SLANGRAST_INLINE int __any_sync(uint, bool condition) { return condition; }
SLANGRAST_INLINE void __syncwarp(uint = 1) {}
SLANGRAST_INLINE bool _slang_quadAny(bool condition) { return condition; }
SLANGRAST_INLINE bool _slang_quadAll(bool condition) { return condition; }

template<typename T>
SLANGRAST_INLINE uint __match_any_sync(uint, T)
{
    return 1;
}

template<typename T>
SLANGRAST_INLINE uint __match_all_sync(uint, T, int* all_match)
{
    *all_match = 1;
    return 1;
}

// Whichever lane is asked for, there is only this one. (CUDA takes lane numbers modulo the warp's size.)
#define SLANGRAST_SHUFFLE(NAME)                                                                                        \
    template<typename T>                                                                                               \
    SLANGRAST_INLINE T NAME(uint, T value, int, int = warpSize)                                                        \
    {                                                                                                                  \
        return value;                                                                                                  \
    }
SLANGRAST_SHUFFLE(__shfl_sync)
SLANGRAST_SHUFFLE(__shfl_up_sync)
SLANGRAST_SHUFFLE(__shfl_down_sync)
SLANGRAST_SHUFFLE(__shfl_xor_sync)
SLANGRAST_SHUFFLE(_waveShuffleMultiple)
#undef SLANGRAST_SHUFFLE

#define SLANGRAST_IDENTITY(NAME)                                                                                       \
    template<typename T>                                                                                               \
    SLANGRAST_INLINE T NAME(WarpMask, T value)                                                                         \
    {                                                                                                                  \
        return value;                                                                                                  \
    }                                                                                                                  \
    template<typename T>                                                                                               \
    SLANGRAST_INLINE T NAME##Multiple(WarpMask, T value)                                                               \
    {                                                                                                                  \
        return value;                                                                                                  \
    }
SLANGRAST_IDENTITY(_waveSum)
SLANGRAST_IDENTITY(_waveProduct)
SLANGRAST_IDENTITY(_waveMin)
SLANGRAST_IDENTITY(_waveMax)
SLANGRAST_IDENTITY(_waveAnd)
SLANGRAST_IDENTITY(_waveOr)
SLANGRAST_IDENTITY(_waveXor)
SLANGRAST_IDENTITY(_waveReadFirst)
// A prefix minimum or maximum counts the lane itself, unless it says that it is exclusive.
SLANGRAST_IDENTITY(_wavePrefixMin)
SLANGRAST_IDENTITY(_wavePrefixMax)
SLANGRAST_IDENTITY(_wavePrefixInclusiveMin)
SLANGRAST_IDENTITY(_wavePrefixInclusiveMax)
#undef SLANGRAST_IDENTITY

#define SLANGRAST_PREFIX(NAME, VALUE)                                                                                  \
    template<typename T>                                                                                               \
    SLANGRAST_INLINE T NAME(WarpMask, T)                                                                               \
    {                                                                                                                  \
        return slangrast::Nothing<T>::VALUE();                                                                         \
    }                                                                                                                  \
    template<typename T>                                                                                               \
    SLANGRAST_INLINE T NAME##Multiple(WarpMask, T)                                                                     \
    {                                                                                                                  \
        return slangrast::Nothing<T>::VALUE();                                                                         \
    }
SLANGRAST_PREFIX(_wavePrefixSum, zero)
SLANGRAST_PREFIX(_wavePrefixProduct, one)
SLANGRAST_PREFIX(_wavePrefixOr, zero)
SLANGRAST_PREFIX(_wavePrefixXor, zero)
SLANGRAST_PREFIX(_wavePrefixAnd, ones)
SLANGRAST_PREFIX(_wavePrefixExclusiveMin, minimum)
SLANGRAST_PREFIX(_wavePrefixExclusiveMax, maximum)
#undef SLANGRAST_PREFIX

template<typename T>
SLANGRAST_INLINE bool _waveAllEqual(WarpMask, T)
{
    return true;
}

template<typename T>
SLANGRAST_INLINE bool _waveAllEqualMultiple(WarpMask, T)
{
    return true;
}

template<typename T>
SLANGRAST_INLINE uint4 _waveMatchScalar(WarpMask, T)
{
    return {1, 0, 0, 0};
}

template<typename T>
SLANGRAST_INLINE uint4 _waveMatchMultiple(WarpMask, const T&)
{
    return {1, 0, 0, 0};
}

template<typename T>
SLANGRAST_INLINE T _slang_waveRotate(T value, uint)
{
    return value;
}

template<typename T>
SLANGRAST_INLINE T _slang_waveClusteredRotate(T value, uint, uint)
{
    return value;
}
