// What an operation over the lanes of a wave gives where there are none.
#pragma once

namespace slangrast
{

// The least and the greatest value of a type: what a minimum and a maximum of nothing are.
template<typename T>
SLANGRAST_INLINE T greatest()
{
    if constexpr (is_same<T, __half>)
        return __ushort_as_half(0x7bff);
    else if constexpr (is_floating<T>)
        return T(__builtin_inff());
    else
        return T(-1) > T(0) ? T(-1) : T((uint64_t(1) << (8 * sizeof(T) - 1)) - 1);
}

template<typename T>
SLANGRAST_INLINE T least()
{
    if constexpr (is_floating<T>)
        return -greatest<T>();
    else
        return T(-1) > T(0) ? T(0) : T(-greatest<T>() - 1);
}

// The result of an operation over no lanes, for scalars, vectors and matrices.
template<typename T>
struct Nothing
{
    SLANGRAST_INLINE T zero() { return T(0); }
    SLANGRAST_INLINE T one() { return T(1); }
    SLANGRAST_INLINE T ones() { return T(~T(0)); }
    SLANGRAST_INLINE T minimum() { return greatest<T>(); }
    SLANGRAST_INLINE T maximum() { return least<T>(); }
};

template<typename T, int N>
struct Nothing<Vec<T, N>>
{
    SLANGRAST_INLINE Vec<T, N> zero() { return GetVectorTypeImpl<T, N>::fromScalar(Nothing<T>::zero()); }
    SLANGRAST_INLINE Vec<T, N> one() { return GetVectorTypeImpl<T, N>::fromScalar(Nothing<T>::one()); }
    SLANGRAST_INLINE Vec<T, N> ones() { return GetVectorTypeImpl<T, N>::fromScalar(Nothing<T>::ones()); }
    SLANGRAST_INLINE Vec<T, N> minimum() { return GetVectorTypeImpl<T, N>::fromScalar(Nothing<T>::minimum()); }
    SLANGRAST_INLINE Vec<T, N> maximum() { return GetVectorTypeImpl<T, N>::fromScalar(Nothing<T>::maximum()); }
};

template<typename T, int R, int C>
struct Nothing<Matrix<T, R, C>>
{
    typedef Matrix<T, R, C> Type;
    SLANGRAST_INLINE Type zero() { return makeMatrix<T, R, C>(Nothing<T>::zero()); }
    SLANGRAST_INLINE Type one() { return makeMatrix<T, R, C>(Nothing<T>::one()); }
    SLANGRAST_INLINE Type ones() { return makeMatrix<T, R, C>(Nothing<T>::ones()); }
    SLANGRAST_INLINE Type minimum() { return makeMatrix<T, R, C>(Nothing<T>::minimum()); }
    SLANGRAST_INLINE Type maximum() { return makeMatrix<T, R, C>(Nothing<T>::maximum()); }
};

} // namespace slangrast
