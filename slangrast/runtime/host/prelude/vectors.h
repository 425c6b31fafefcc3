// float3, int4, bool2 and their kin: one template, with CUDA's sizes and alignments (vector_types.h), because structs
// cross the border to Python byte by byte and must look the same on every engine.
#pragma once

namespace slangrast
{

constexpr size_t at_most_16(size_t size) { return size < 16 ? size : 16; }

// CUDA aligns pairs and quadruples to their size, up to 16 bytes, and triples to one element.
template<typename T, int N>
constexpr size_t vector_alignment = N % 2 == 0 ? at_most_16(N * sizeof(T)) : alignof(T);
template<>
inline constexpr size_t vector_alignment<__half, 3> = 4;
template<>
inline constexpr size_t vector_alignment<__half, 4> = 4;
template<>
inline constexpr size_t vector_alignment<__nv_bfloat16, 4> = 2;

template<typename T, int N>
struct Vec;

#define SLANGRAST_VECTOR(N, ...)                                                                                       \
    template<typename T>                                                                                               \
    struct alignas(vector_alignment<T, N>) Vec<T, N>                                                                   \
    {                                                                                                                  \
        T __VA_ARGS__;                                                                                                 \
        SLANGRAST_METHOD T& operator[](size_t index) { return reinterpret_cast<T*>(this)[index]; }                     \
        SLANGRAST_METHOD const T& operator[](size_t index) const                                                       \
        {                                                                                                              \
            return reinterpret_cast<const T*>(this)[index];                                                            \
        }                                                                                                              \
    };
SLANGRAST_VECTOR(1, x)
SLANGRAST_VECTOR(2, x, y)
SLANGRAST_VECTOR(3, x, y, z)
SLANGRAST_VECTOR(4, x, y, z, w)
#undef SLANGRAST_VECTOR

template<typename T>
SLANGRAST_INLINE T remainder_of(T a, T b)
{
    if constexpr (is_same<T, double>)
        return __builtin_fmod(a, b);
    else if constexpr (is_floating<T>)
        return __builtin_fmodf(a, b);
    else
        return T(a % b);
}

// Written out by component, so that a vector never has to live in memory to be indexed.
#define SLANGRAST_BINARY(NAME, RESULT, EXPRESSION)                                                                     \
    template<typename T, int N>                                                                                        \
    SLANGRAST_INLINE Vec<RESULT, N> NAME(const Vec<T, N>& left, const Vec<T, N>& right)                                \
    {                                                                                                                  \
        auto apply = [](T a, T b) __attribute__((always_inline)) { return RESULT(EXPRESSION); };                       \
        if constexpr (N == 1)                                                                                          \
            return {apply(left.x, right.x)};                                                                           \
        else if constexpr (N == 2)                                                                                     \
            return {apply(left.x, right.x), apply(left.y, right.y)};                                                   \
        else if constexpr (N == 3)                                                                                     \
            return {apply(left.x, right.x), apply(left.y, right.y), apply(left.z, right.z)};                           \
        else                                                                                                           \
            return {apply(left.x, right.x), apply(left.y, right.y), apply(left.z, right.z), apply(left.w, right.w)};   \
    }
#define SLANGRAST_UNARY(NAME, EXPRESSION)                                                                              \
    template<typename T, int N>                                                                                        \
    SLANGRAST_INLINE Vec<T, N> NAME(const Vec<T, N>& value)                                                            \
    {                                                                                                                  \
        auto apply = [](T a) __attribute__((always_inline)) { return T(EXPRESSION); };                                 \
        if constexpr (N == 1)                                                                                          \
            return {apply(value.x)};                                                                                   \
        else if constexpr (N == 2)                                                                                     \
            return {apply(value.x), apply(value.y)};                                                                   \
        else if constexpr (N == 3)                                                                                     \
            return {apply(value.x), apply(value.y), apply(value.z)};                                                   \
        else                                                                                                           \
            return {apply(value.x), apply(value.y), apply(value.z), apply(value.w)};                                   \
    }

SLANGRAST_BINARY(operator+, T, a + b)
SLANGRAST_BINARY(operator-, T, a - b)
SLANGRAST_BINARY(operator*, T, a* b)
SLANGRAST_BINARY(operator/, T, a / b)
SLANGRAST_BINARY(operator%, T, remainder_of(a, b))
SLANGRAST_BINARY(operator&, T, a& b)
SLANGRAST_BINARY(operator|, T, a | b)
SLANGRAST_BINARY(operator^, T, a ^ b)
SLANGRAST_BINARY(operator<<, T, a << b)
SLANGRAST_BINARY(operator>>, T, a >> b)
SLANGRAST_BINARY(operator&&, T, a && b)
SLANGRAST_BINARY(operator||, T, a || b)
SLANGRAST_BINARY(operator==, bool, a == b)
SLANGRAST_BINARY(operator!=, bool, a != b)
SLANGRAST_BINARY(operator<, bool, a < b)
SLANGRAST_BINARY(operator>, bool, a > b)
SLANGRAST_BINARY(operator<=, bool, a <= b)
SLANGRAST_BINARY(operator>=, bool, a >= b)
SLANGRAST_UNARY(operator-, -a)
SLANGRAST_UNARY(operator!, !a)
SLANGRAST_UNARY(operator~, ~a)
#undef SLANGRAST_BINARY
#undef SLANGRAST_UNARY

} // namespace slangrast

template<typename T, int N>
using Vector = slangrast::Vec<T, N>;

template<typename T, int N>
struct GetVectorTypeImpl
{
    typedef Vector<T, N> type;
    SLANGRAST_INLINE type fromScalar(T value)
    {
        type result;
        for (int i = 0; i < N; i++)
            result[i] = value;
        return result;
    }
};

template<typename T, int N>
SLANGRAST_INLINE T _slang_vector_get_element(const slangrast::Vec<T, N>& vector, int index)
{
    return vector[index];
}

template<typename T, int N>
SLANGRAST_INLINE T* _slang_vector_get_element_ptr(slangrast::Vec<T, N>* vector, int index)
{
    return &(*vector)[index];
}

template<typename T, int N>
SLANGRAST_INLINE T* _slang_vector_get_element_ptr(const slangrast::Vec<T, N>* vector, int index)
{
    return const_cast<T*>(&(*vector)[index]);
}

template<typename T, int N, typename U, int M>
SLANGRAST_INLINE Vector<T, N> _slang_vector_reshape(const slangrast::Vec<U, M>& other)
{
    Vector<T, N> result;
    for (int i = 0; i < N; i++)
        result[i] = i < M ? T(other[i]) : T(0);
    return result;
}

template<typename T, int N>
SLANGRAST_INLINE T _slang_vector_dot(const slangrast::Vec<T, N>& a, const slangrast::Vec<T, N>& b)
{
    T sum = T(0);
    for (int i = 0; i < N; i++)
        sum = sum + a[i] * b[i];
    return sum;
}

template<typename T>
SLANGRAST_INLINE T _slang_select(bool condition, T a, T b)
{
    return condition ? a : b;
}

// Component by component: a choice between two structs would be a branch, which keeps a loop from becoming vectors.
template<typename T, int N>
SLANGRAST_INLINE Vector<T, N> _slang_select(bool condition, const Vector<T, N>& a, const Vector<T, N>& b)
{
    Vector<T, N> result;
    for (int i = 0; i < N; i++)
        result[i] = condition ? a[i] : b[i];
    return result;
}

template<typename T, int N>
SLANGRAST_INLINE Vector<T, N> _slang_select(
    const slangrast::Vec<bool, N>& condition,
    const slangrast::Vec<T, N>& a,
    const slangrast::Vec<T, N>& b)
{
    Vector<T, N> result;
    for (int i = 0; i < N; i++)
        result[i] = condition[i] ? a[i] : b[i];
    return result;
}

template<typename T>
SLANGRAST_INLINE slangrast::real make_float(T value)
{
    return slangrast::real(value);
}

// NAME is what generated text writes, TYPE what it holds: the two differ for float in float64 mode.
#define SLANGRAST_VECTOR_NAMES(NAME, TYPE)                                                                             \
    typedef Vector<TYPE, 1> NAME##1;                                                                                   \
    typedef Vector<TYPE, 2> NAME##2;                                                                                   \
    typedef Vector<TYPE, 3> NAME##3;                                                                                   \
    typedef Vector<TYPE, 4> NAME##4;                                                                                   \
    SLANGRAST_INLINE NAME##1 make_##NAME##1(TYPE x) { return {x}; }                                                    \
    SLANGRAST_INLINE NAME##2 make_##NAME##2(TYPE x) { return {x, x}; }                                                 \
    SLANGRAST_INLINE NAME##3 make_##NAME##3(TYPE x) { return {x, x, x}; }                                              \
    SLANGRAST_INLINE NAME##4 make_##NAME##4(TYPE x) { return {x, x, x, x}; }                                           \
    SLANGRAST_INLINE NAME##2 make_##NAME##2(TYPE x, TYPE y) { return {x, y}; }                                         \
    SLANGRAST_INLINE NAME##3 make_##NAME##3(TYPE x, TYPE y, TYPE z) { return {x, y, z}; }                              \
    SLANGRAST_INLINE NAME##4 make_##NAME##4(TYPE x, TYPE y, TYPE z, TYPE w) { return {x, y, z, w}; }

SLANGRAST_VECTOR_NAMES(bool, bool)
SLANGRAST_VECTOR_NAMES(char, char)
SLANGRAST_VECTOR_NAMES(uchar, uchar)
SLANGRAST_VECTOR_NAMES(short, short)
SLANGRAST_VECTOR_NAMES(ushort, ushort)
SLANGRAST_VECTOR_NAMES(int, int)
SLANGRAST_VECTOR_NAMES(uint, uint)
SLANGRAST_VECTOR_NAMES(longlong, longlong)
SLANGRAST_VECTOR_NAMES(ulonglong, ulonglong)
SLANGRAST_VECTOR_NAMES(__half, __half)
SLANGRAST_VECTOR_NAMES(__nv_bfloat16, __nv_bfloat16)
SLANGRAST_VECTOR_NAMES(float, slangrast::real)
SLANGRAST_VECTOR_NAMES(double, double)
#undef SLANGRAST_VECTOR_NAMES
