// CUDA's keywords, scalar types and arrays. Functions are forced inline, because loops over small arrays vectorise
// only when the functions called inside them are part of the loop.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstring>

#ifdef SLANGRAST_NO_FORCED_INLINE
#define SLANGRAST_METHOD inline
#else
#define SLANGRAST_METHOD inline __attribute__((always_inline))
#endif
#define SLANGRAST_INLINE static SLANGRAST_METHOD

// Not `static`: slangc writes `__device__ static const` for tables, and `extern "C" __global__` for kernels. Hidden,
// so that two loaded modules never share a function of the same name.
#define __device__ SLANGRAST_METHOD __attribute__((visibility("hidden")))
#define __global__ __device__
#define __host__
#define __forceinline__
#define __inline__ inline
#define __noinline__
#define __restrict__ __restrict
#define SLANG_FORCE_INLINE inline
#define SLANG_INLINE inline
#define SLANG_CUDA_CALL
#define SLANG_PRELUDE_EXPORT
#define SLANG_UNROLL
#define SLANG_PRELUDE_ASSERT(condition)
#define SLANG_OFFSET_OF(type, member) __builtin_offsetof(type, member)
#define SLANG_INFINITY (__builtin_inff())
#define SLANG_CUDA_WARP_SIZE (SLANGRAST_SIMT ? 32 : 1)
#if SLANGRAST_SIMT
#define __shared__ thread_local // a thread of the host runs one block at a time
#endif

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef int64_t longlong;
typedef unsigned long long ulonglong;

// A resource that carries no data on the host: the type must exist, because structs may hold one.
typedef size_t NonUniformResourceIndex;
struct SamplerStateUnused;
typedef SamplerStateUnused* SamplerState;

struct TypeInfo
{
    size_t typeSize;
};

#if SLANGRAST_CHECKED
#include "../checked/site.h"
#endif
#if SLANGRAST_DEBUG
#include "../checked/arrays.h"
#else
template<typename T, size_t N>
struct FixedArray
{
    SLANGRAST_METHOD T& operator[](size_t index) { return m_data[index]; }
    SLANGRAST_METHOD const T& operator[](size_t index) const { return m_data[index]; }

    T m_data[N];
};
#endif

template<typename T>
struct Array
{
    SLANGRAST_METHOD T& operator[](size_t index) const { return data[index]; }

    T* data;
    size_t count;
};

namespace slangrast
{

// What the shader calls float.
#if SLANGRAST_FLOAT64
typedef double real;
#else
typedef float real;
#endif

template<typename T>
constexpr bool is_floating = false;
template<>
inline constexpr bool is_floating<float> = true;
template<>
inline constexpr bool is_floating<double> = true;

template<typename A, typename B>
constexpr bool is_same = false;
template<typename A>
inline constexpr bool is_same<A, A> = true;

// The bits of a value as another type of the same size.
template<typename To, typename From>
SLANGRAST_INLINE To bits(const From& value)
{
    static_assert(sizeof(To) == sizeof(From), "both types must have the same size");
    To result;
    memcpy(&result, &value, sizeof(To));
    return result;
}

} // namespace slangrast
