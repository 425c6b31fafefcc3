// Wave operations over 32 lanes. Each lane brings a value; when all are there, one of them works out what each takes.
#pragma once

typedef int WarpMask;
static const int warpSize = 32;

namespace slangrast
{

SLANGRAST_INLINE uint32_t lane_of_thread()
{
    return (threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) % wave_size;
}

// What two lanes' values are combined to, element by element.
struct Sum
{
    template<typename T>
    SLANGRAST_INLINE T of(T a, T b)
    {
        return T(a + b);
    }
};
struct Product
{
    template<typename T>
    SLANGRAST_INLINE T of(T a, T b)
    {
        return T(a * b);
    }
};
struct Minimum
{
    template<typename T>
    SLANGRAST_INLINE T of(T a, T b)
    {
        return slangrast::min(a, b);
    }
};
struct Maximum
{
    template<typename T>
    SLANGRAST_INLINE T of(T a, T b)
    {
        return slangrast::max(a, b);
    }
};
struct BitAnd
{
    template<typename T>
    SLANGRAST_INLINE T of(T a, T b)
    {
        return T(a & b);
    }
};
struct BitOr
{
    template<typename T>
    SLANGRAST_INLINE T of(T a, T b)
    {
        return T(a | b);
    }
};
struct BitXor
{
    template<typename T>
    SLANGRAST_INLINE T of(T a, T b)
    {
        return T(a ^ b);
    }
};

template<typename Operation, typename T>
SLANGRAST_INLINE T combine(const T& a, const T& b)
{
    return Operation::of(a, b);
}
template<typename Operation, typename T, int N>
SLANGRAST_INLINE Vec<T, N> combine(const Vec<T, N>& a, const Vec<T, N>& b)
{
    Vec<T, N> result;
    for (int i = 0; i < N; i++)
        result[i] = Operation::of(a[i], b[i]);
    return result;
}
template<typename Operation, typename T, int R, int C>
SLANGRAST_INLINE Matrix<T, R, C> combine(const Matrix<T, R, C>& a, const Matrix<T, R, C>& b)
{
    Matrix<T, R, C> result;
    for (int i = 0; i < R; i++)
        result[i] = combine<Operation>(a[i], b[i]);
    return result;
}

template<typename T>
SLANGRAST_INLINE bool are_equal(const T& a, const T& b)
{
    return a == b;
}
template<typename T, int N>
SLANGRAST_INLINE bool are_equal(const Vec<T, N>& a, const Vec<T, N>& b)
{
    for (int i = 0; i < N; i++)
        if (!(a[i] == b[i]))
            return false;
    return true;
}
template<typename T, int R, int C>
SLANGRAST_INLINE bool are_equal(const Matrix<T, R, C>& a, const Matrix<T, R, C>& b)
{
    for (int i = 0; i < R; i++)
        if (!are_equal(a[i], b[i]))
            return false;
    return true;
}

template<typename Function>
SLANGRAST_INLINE void for_each_lane(const Group& group, Function function)
{
    for (uint32_t lane = 0; lane < wave_size; lane++)
        if (group.has(lane))
            function(lane);
}

template<typename Operation, typename T>
static void reduce(const Group& group)
{
    T total = group.brought<T>(__builtin_ctz(group.lanes));
    for_each_lane(Group{group.wave, group.lanes & (group.lanes - 1)},
                  [&](uint32_t lane) { total = combine<Operation>(total, group.brought<T>(lane)); });
    for_each_lane(group, [&](uint32_t lane) { group.taken<T>(lane) = total; });
}

// What the lanes before each one bring, `nothing` where there are none.
template<typename Operation, typename T, T (*Nothing)()>
static void reduce_before(const Group& group)
{
    T total = Nothing();
    for_each_lane(group, [&](uint32_t lane) {
        group.taken<T>(lane) = total;
        total = combine<Operation>(total, group.brought<T>(lane));
    });
}

// What the lanes up to each one bring.
template<typename Operation, typename T>
static void reduce_up_to(const Group& group)
{
    T total;
    bool is_first = true;
    for_each_lane(group, [&](uint32_t lane) {
        total = is_first ? group.brought<T>(lane) : combine<Operation>(total, group.brought<T>(lane));
        is_first = false;
        group.taken<T>(lane) = total;
    });
}

template<typename T>
static void read_first(const Group& group)
{
    const T first = group.brought<T>(__builtin_ctz(group.lanes));
    for_each_lane(group, [&](uint32_t lane) { group.taken<T>(lane) = first; });
}

// A value, and the lane to read it from.
template<typename T>
struct Sent
{
    T value;
    uint32_t source;
};

// A lane that reads from one that takes no part gets its own value. On a GPU it gets any.
template<typename T>
static void shuffle(const Group& group)
{
    for_each_lane(group, [&](uint32_t lane) {
        const uint32_t source = group.brought<Sent<T>>(lane).source;
        group.taken<T>(lane) = group.brought<Sent<T>>(group.has(source) ? source : lane).value;
    });
}

static void ballot(const Group& group)
{
    uint32_t lanes = 0;
    for_each_lane(group, [&](uint32_t lane) { lanes |= uint32_t(group.brought<bool>(lane)) << lane; });
    for_each_lane(group, [&](uint32_t lane) { group.taken<uint32_t>(lane) = lanes; });
}

static void ask_all(const Group& group)
{
    bool all = true;
    for_each_lane(group, [&](uint32_t lane) { all &= group.brought<bool>(lane); });
    for_each_lane(group, [&](uint32_t lane) { group.taken<bool>(lane) = all; });
}

static void ask_any(const Group& group)
{
    bool any = false;
    for_each_lane(group, [&](uint32_t lane) { any |= group.brought<bool>(lane); });
    for_each_lane(group, [&](uint32_t lane) { group.taken<bool>(lane) = any; });
}

static void ask_quad(const Group& group)
{
    for_each_lane(group, [&](uint32_t lane) {
        uint32_t lanes = 0;
        for (uint32_t other = lane & ~3u; other <= (lane | 3u); other++)
            lanes |= uint32_t(group.has(other) && group.brought<bool>(other)) << other;
        group.taken<uint32_t>(lane) = lanes >> (lane & ~3u);
    });
}

template<typename T>
static void match(const Group& group)
{
    for_each_lane(group, [&](uint32_t lane) {
        uint32_t equal = 0;
        for_each_lane(group, [&](uint32_t other) {
            equal |= uint32_t(are_equal(group.brought<T>(lane), group.brought<T>(other))) << other;
        });
        group.taken<uint32_t>(lane) = equal;
    });
}

// The lanes, where all bring the same; else none.
template<typename T>
static void match_all(const Group& group)
{
    uint32_t lanes = group.lanes;
    const T& first = group.brought<T>(__builtin_ctz(lanes));
    for_each_lane(group, [&](uint32_t lane) { lanes = are_equal(first, group.brought<T>(lane)) ? lanes : 0; });
    for_each_lane(group, [&](uint32_t lane) { group.taken<uint32_t>(lane) = lanes; });
}

static void gather_lanes(const Group& group)
{
    for_each_lane(group, [&](uint32_t lane) { group.taken<uint32_t>(lane) = group.lanes; });
}

SLANGRAST_INLINE uint32_t lanes_here(const char* operation, Site site)
{
    return take_part<uint32_t>(operation, Manner::whoever, 0, gather_lanes, false, site);
}

template<typename T>
SLANGRAST_INLINE T read_from(uint32_t mask, Manner manner, const T& value, uint32_t source, Site site)
{
    return take_part<T>("read of another lane", manner, mask, shuffle<T>, Sent<T>{value, source}, site);
}

template<typename T>
SLANGRAST_INLINE uint32_t matching(uint32_t mask, const T& value, Site site)
{
    return take_part<uint32_t>("match", Manner::together, mask, match<T>, value, site);
}

template<typename T>
SLANGRAST_INLINE uint32_t all_matching(uint32_t mask, const T& value, Site site)
{
    return take_part<uint32_t>("comparison", Manner::together, mask, match_all<T>, value, site);
}

} // namespace slangrast

#define SLANGRAST_SITE slangrast::Site site = slangrast::Site::here()

SLANGRAST_INLINE uint32_t _getLaneId() { return slangrast::lane_of_thread(); }
SLANGRAST_INLINE WarpMask _getLaneLtMask() { return WarpMask((1u << slangrast::lane_of_thread()) - 1); }
SLANGRAST_INLINE WarpMask _getMultiPrefixMask(int mask) { return mask; }
SLANGRAST_INLINE bool _waveIsSingleLane(WarpMask mask) { return (mask & (mask - 1)) == 0; }
SLANGRAST_INLINE WarpMask _getActiveMask(SLANGRAST_SITE)
{
    return WarpMask(slangrast::lanes_here("active mask", site));
}
SLANGRAST_INLINE uint __activemask(SLANGRAST_SITE) { return slangrast::lanes_here("active mask", site); }
SLANGRAST_INLINE bool _waveIsFirstLane(SLANGRAST_SITE)
{
    return slangrast::lane_of_thread() == uint32_t(__builtin_ctz(slangrast::lanes_here("first lane", site)));
}

SLANGRAST_INLINE uint __ballot_sync(uint mask, bool condition, SLANGRAST_SITE)
{
    return slangrast::take_part<uint32_t>(
        "ballot", slangrast::Manner::ballot, mask, slangrast::ballot, condition, site);
}
SLANGRAST_INLINE int __all_sync(uint mask, bool condition, SLANGRAST_SITE)
{
    return slangrast::take_part<bool>("all", slangrast::Manner::together, mask, slangrast::ask_all, condition, site);
}
SLANGRAST_INLINE int __any_sync(uint mask, bool condition, SLANGRAST_SITE)
{
    return slangrast::take_part<bool>("any", slangrast::Manner::together, mask, slangrast::ask_any, condition, site);
}
SLANGRAST_INLINE void __syncwarp(uint mask = 0xffffffffu, SLANGRAST_SITE)
{
    slangrast::take_part<uint32_t>(
        "barrier", slangrast::Manner::shuffle, mask, slangrast::gather_lanes, false, site);
}
SLANGRAST_INLINE bool _slang_quadAny(bool condition, SLANGRAST_SITE)
{
    return slangrast::take_part<uint32_t>(
               "quad", slangrast::Manner::whoever, 0, slangrast::ask_quad, condition, site) != 0;
}
SLANGRAST_INLINE bool _slang_quadAll(bool condition, SLANGRAST_SITE) { return !_slang_quadAny(!condition, site); }

template<typename T>
SLANGRAST_INLINE uint __match_any_sync(uint mask, T value, SLANGRAST_SITE)
{
    return slangrast::matching(mask, value, site);
}

template<typename T>
SLANGRAST_INLINE uint __match_all_sync(uint mask, T value, int* all_match, SLANGRAST_SITE)
{
    const uint lanes = slangrast::all_matching(mask, value, site);
    *all_match = lanes != 0;
    return lanes;
}

// Within groups of `width` lanes, a power of two. A lane that would read beyond its group reads its own value.
template<typename T>
SLANGRAST_INLINE T __shfl_sync(uint mask, T value, int source, int width = warpSize, SLANGRAST_SITE)
{
    const uint32_t lane = slangrast::lane_of_thread(), inside = uint32_t(width) - 1;
    return slangrast::read_from(
        mask, slangrast::Manner::shuffle, value, (lane & ~inside) | (uint32_t(source) & inside), site);
}

template<typename T>
SLANGRAST_INLINE T __shfl_up_sync(uint mask, T value, int distance, int width = warpSize, SLANGRAST_SITE)
{
    const uint32_t lane = slangrast::lane_of_thread(), place = lane & (uint32_t(width) - 1);
    const uint32_t source = place >= uint32_t(distance) ? lane - uint32_t(distance) : lane;
    return slangrast::read_from(mask, slangrast::Manner::shuffle, value, source, site);
}

template<typename T>
SLANGRAST_INLINE T __shfl_down_sync(uint mask, T value, int distance, int width = warpSize, SLANGRAST_SITE)
{
    const uint32_t lane = slangrast::lane_of_thread(), place = lane & (uint32_t(width) - 1);
    const uint32_t source = uint64_t(place) + uint32_t(distance) < uint32_t(width) ? lane + uint32_t(distance) : lane;
    return slangrast::read_from(mask, slangrast::Manner::shuffle, value, source, site);
}

template<typename T>
SLANGRAST_INLINE T __shfl_xor_sync(uint mask, T value, int bits, int width = warpSize, SLANGRAST_SITE)
{
    const uint32_t lane = slangrast::lane_of_thread(), inside = uint32_t(width) - 1;
    const uint32_t source = lane ^ uint32_t(bits);
    return slangrast::read_from(
        mask, slangrast::Manner::shuffle, value, source <= (lane | inside) ? source : lane, site);
}

template<typename T>
SLANGRAST_INLINE T _waveShuffleMultiple(WarpMask mask, T value, int source, SLANGRAST_SITE)
{
    return __shfl_sync(uint(mask), value, source, warpSize, site);
}

template<typename T>
SLANGRAST_INLINE T _slang_waveRotate(T value, uint distance, SLANGRAST_SITE)
{
    const uint32_t source = (slangrast::lane_of_thread() + distance) % slangrast::wave_size;
    return slangrast::read_from(0, slangrast::Manner::whoever, value, source, site);
}

template<typename T>
SLANGRAST_INLINE T _slang_waveClusteredRotate(T value, uint distance, uint cluster, SLANGRAST_SITE)
{
    const uint32_t lane = slangrast::lane_of_thread(), inside = cluster - 1;
    const uint32_t source = (lane & ~inside) | ((lane + distance) & inside);
    return slangrast::read_from(0, slangrast::Manner::whoever, value, source, site);
}

#define SLANGRAST_OPERATION(NAME, TITLE, ...)                                                                          \
    template<typename T>                                                                                               \
    SLANGRAST_INLINE T NAME(WarpMask mask, T value, SLANGRAST_SITE)                                                    \
    {                                                                                                                  \
        return slangrast::take_part<T>(                                                                                \
            TITLE, slangrast::Manner::together, uint32_t(mask), slangrast::__VA_ARGS__, value, site);                  \
    }                                                                                                                  \
    template<typename T>                                                                                               \
    SLANGRAST_INLINE T NAME##Multiple(WarpMask mask, T value, SLANGRAST_SITE)                                          \
    {                                                                                                                  \
        return NAME(mask, value, site);                                                                                \
    }
SLANGRAST_OPERATION(_waveSum, "sum", reduce<slangrast::Sum, T>)
SLANGRAST_OPERATION(_waveProduct, "product", reduce<slangrast::Product, T>)
SLANGRAST_OPERATION(_waveMin, "minimum", reduce<slangrast::Minimum, T>)
SLANGRAST_OPERATION(_waveMax, "maximum", reduce<slangrast::Maximum, T>)
SLANGRAST_OPERATION(_waveAnd, "bitwise and", reduce<slangrast::BitAnd, T>)
SLANGRAST_OPERATION(_waveOr, "bitwise or", reduce<slangrast::BitOr, T>)
SLANGRAST_OPERATION(_waveXor, "bitwise xor", reduce<slangrast::BitXor, T>)
SLANGRAST_OPERATION(_waveReadFirst, "read of the first lane", read_first<T>)
SLANGRAST_OPERATION(_wavePrefixSum, "prefix sum", reduce_before<slangrast::Sum, T, slangrast::Nothing<T>::zero>)
SLANGRAST_OPERATION(
    _wavePrefixProduct, "prefix product", reduce_before<slangrast::Product, T, slangrast::Nothing<T>::one>)
SLANGRAST_OPERATION(_wavePrefixAnd, "prefix and", reduce_before<slangrast::BitAnd, T, slangrast::Nothing<T>::ones>)
SLANGRAST_OPERATION(_wavePrefixOr, "prefix or", reduce_before<slangrast::BitOr, T, slangrast::Nothing<T>::zero>)
SLANGRAST_OPERATION(_wavePrefixXor, "prefix xor", reduce_before<slangrast::BitXor, T, slangrast::Nothing<T>::zero>)
// A prefix minimum or maximum counts the lane itself, unless it says that it is exclusive.
SLANGRAST_OPERATION(_wavePrefixMin, "prefix minimum", reduce_up_to<slangrast::Minimum, T>)
SLANGRAST_OPERATION(_wavePrefixMax, "prefix maximum", reduce_up_to<slangrast::Maximum, T>)
SLANGRAST_OPERATION(_wavePrefixInclusiveMin, "prefix minimum", reduce_up_to<slangrast::Minimum, T>)
SLANGRAST_OPERATION(_wavePrefixInclusiveMax, "prefix maximum", reduce_up_to<slangrast::Maximum, T>)
SLANGRAST_OPERATION(
    _wavePrefixExclusiveMin, "prefix minimum", reduce_before<slangrast::Minimum, T, slangrast::Nothing<T>::minimum>)
SLANGRAST_OPERATION(
    _wavePrefixExclusiveMax, "prefix maximum", reduce_before<slangrast::Maximum, T, slangrast::Nothing<T>::maximum>)
#undef SLANGRAST_OPERATION

template<typename T>
SLANGRAST_INLINE bool _waveAllEqual(WarpMask mask, T value, SLANGRAST_SITE)
{
    return slangrast::all_matching(uint(mask), value, site) != 0;
}

template<typename T>
SLANGRAST_INLINE bool _waveAllEqualMultiple(WarpMask mask, T value, SLANGRAST_SITE)
{
    return _waveAllEqual(mask, value, site);
}

template<typename T>
SLANGRAST_INLINE uint4 _waveMatchScalar(WarpMask mask, T value, SLANGRAST_SITE)
{
    return {slangrast::matching(uint(mask), value, site), 0, 0, 0};
}

template<typename T>
SLANGRAST_INLINE uint4 _waveMatchMultiple(WarpMask mask, const T& value, SLANGRAST_SITE)
{
    return {slangrast::matching(uint(mask), value, site), 0, 0, 0};
}

#undef SLANGRAST_SITE
