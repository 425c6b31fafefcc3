// Atomic operations with relaxed order, as CUDA's are. Each returns the value that was there before. In a launch on one
// thread plain operations do, at a tenth of the price.
#pragma once

#if SLANGRAST_DEBUG
#define SLANGRAST_CHECK_ATOMIC(...) slangrast::check_atomic(__VA_ARGS__);
#else
#define SLANGRAST_CHECK_ATOMIC(...)
#endif

namespace slangrast
{

template<size_t Size>
struct Word;
template<>
struct Word<2>
{
    typedef uint16_t __attribute__((may_alias)) type;
};
template<>
struct Word<4>
{
    typedef uint32_t __attribute__((may_alias)) type;
};
template<>
struct Word<8>
{
    typedef uint64_t __attribute__((may_alias)) type;
};

// Replaces a value by a function of it. The memory is a word of bits, because compare-and-exchange must see bits:
// -0.0 equals 0.0, and NaN nothing.
template<typename T, typename Function>
SLANGRAST_INLINE T atomic_update(T* address, Function function)
{
    if (slangrast_single_threaded)
    {
        T old = *address;
        *address = function(old);
        return old;
    }
    typedef typename Word<sizeof(T)>::type Bits;
    Bits* word = reinterpret_cast<Bits*>(address);
    Bits expected = __atomic_load_n(word, __ATOMIC_RELAXED);
    for (;;)
    {
        T old = bits<T>(expected);
        Bits wanted = bits<Bits>(function(old));
        if (__atomic_compare_exchange_n(word, &expected, wanted, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
            return old;
    }
}

} // namespace slangrast

template<typename T, typename V>
SLANGRAST_INLINE T atomicExch(T* address, V value)
{
    SLANGRAST_CHECK_ATOMIC(address, T(value), SLANGRAST_STORED_NOT_FINITE)
    return slangrast::atomic_update(address, [&](T) { return T(value); });
}

template<typename T, typename C, typename V>
SLANGRAST_INLINE T atomicCAS(T* address, C compare, V value)
{
    typedef typename slangrast::Word<sizeof(T)>::type Bits;
    Bits expected = slangrast::bits<Bits>(T(compare));
    Bits wanted = slangrast::bits<Bits>(T(value));
    Bits* word = reinterpret_cast<Bits*>(address);
    __atomic_compare_exchange_n(word, &expected, wanted, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return slangrast::bits<T>(expected);
}

template<typename T, typename V>
SLANGRAST_INLINE T atomicAdd(T* address, V value)
{
    if constexpr (slangrast::is_floating<T>)
    {
        SLANGRAST_CHECK_ATOMIC(address, T(value), SLANGRAST_ADDED_NOT_FINITE)
        T old = slangrast::atomic_update(address, [&](T old) { return old + T(value); });
        SLANGRAST_CHECK_ATOMIC(address, T(old + T(value)), SLANGRAST_SUM_NOT_FINITE)
        return old;
    }
    else
    {
        typedef typename slangrast::Word<sizeof(T)>::type Bits;
        return T(__atomic_fetch_add(reinterpret_cast<Bits*>(address), Bits(value), __ATOMIC_RELAXED));
    }
}

template<typename T, typename V>
SLANGRAST_INLINE T atomicSub(T* address, V value)
{
    return atomicAdd(address, T(T(0) - T(value)));
}

template<typename T, typename V>
SLANGRAST_INLINE T atomicMin(T* address, V value)
{
    return slangrast::atomic_update(address, [&](T old) { return slangrast::min(old, T(value)); });
}

template<typename T, typename V>
SLANGRAST_INLINE T atomicMax(T* address, V value)
{
    return slangrast::atomic_update(address, [&](T old) { return slangrast::max(old, T(value)); });
}

template<typename T, typename V>
SLANGRAST_INLINE T atomicAnd(T* address, V value)
{
    return slangrast::atomic_update(address, [&](T old) { return T(old & T(value)); });
}

template<typename T, typename V>
SLANGRAST_INLINE T atomicOr(T* address, V value)
{
    return slangrast::atomic_update(address, [&](T old) { return T(old | T(value)); });
}

template<typename T, typename V>
SLANGRAST_INLINE T atomicXor(T* address, V value)
{
    return slangrast::atomic_update(address, [&](T old) { return T(old ^ T(value)); });
}

// Counting round from 0 to the limit, and back.
template<typename T, typename V>
SLANGRAST_INLINE T atomicInc(T* address, V limit)
{
    return slangrast::atomic_update(address, [&](T old) { return old >= T(limit) ? T(0) : T(old + 1); });
}

template<typename T, typename V>
SLANGRAST_INLINE T atomicDec(T* address, V limit)
{
    return slangrast::atomic_update(
        address, [&](T old) { return old == T(0) || old > T(limit) ? T(limit) : T(old - 1); });
}

// A vector is updated one element after another.
template<typename T, int N>
SLANGRAST_INLINE Vector<T, N> atomicAdd(slangrast::Vec<T, N>* address, const slangrast::Vec<T, N>& value)
{
    Vector<T, N> old;
    for (int i = 0; i < N; i++)
        old[i] = atomicAdd(&(*address)[i], value[i]);
    return old;
}

// Operations whose old value nobody wants. `order` is Slang's memory order; a launch needs no more than relaxed.
#define SLANGRAST_REDUCE(NAME, FUNCTION)                                                                               \
    template<typename T, typename V>                                                                                   \
    SLANGRAST_INLINE void __slang_atomic_reduce_##NAME(T* address, V value, int order)                                 \
    {                                                                                                                  \
        FUNCTION(address, value);                                                                                      \
    }
SLANGRAST_REDUCE(add, atomicAdd)
SLANGRAST_REDUCE(min, atomicMin)
SLANGRAST_REDUCE(max, atomicMax)
SLANGRAST_REDUCE(and, atomicAnd)
SLANGRAST_REDUCE(or, atomicOr)
SLANGRAST_REDUCE(xor, atomicXor)
#undef SLANGRAST_REDUCE

template<typename T>
SLANGRAST_INLINE void __slang_atomic_reduce_inc(T* address, int order)
{
    atomicAdd(address, 1);
}

template<typename T>
SLANGRAST_INLINE void __slang_atomic_reduce_dec(T* address, int order)
{
    atomicAdd(address, -1);
}

SLANGRAST_INLINE void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
SLANGRAST_INLINE void __threadfence_block() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
SLANGRAST_INLINE void __threadfence_system() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
