// NaN and infinity, noticed where they are added to memory by an atomic operation. (Stores: tensor_view.h.)
#pragma once

namespace slangrast
{

// By its bits, which no compiler option can take to be finite. The value that is not, as a double; else 0.
template<typename T>
SLANGRAST_INLINE double not_finite(const T& value)
{
    if constexpr (is_same<T, float>)
        return (bits<uint32_t>(value) & 0x7f800000u) == 0x7f800000u ? double(value) : 0.0;
    else if constexpr (is_same<T, double>)
        return (bits<uint64_t>(value) & 0x7ff0000000000000u) == 0x7ff0000000000000u ? value : 0.0;
    else if constexpr (is_same<T, __half>)
        return (bits<uint16_t>(value) & 0x7c00u) == 0x7c00u ? double(float(value)) : 0.0;
    else if constexpr (is_same<T, __nv_bfloat16>)
        return (bits<uint16_t>(value) & 0x7f80u) == 0x7f80u ? double(float(value)) : 0.0;
    else
        return 0.0;
}

SLANGRAST_INLINE bool is_nonzero_or_nan(double value) { return !(value == 0.0); }

template<typename T, int N>
SLANGRAST_INLINE double not_finite(const Vec<T, N>& value)
{
    for (int i = 0; i < N; i++)
        if (double bad = not_finite(value[i]); is_nonzero_or_nan(bad))
            return bad;
    return 0.0;
}

template<typename T, int R, int C>
SLANGRAST_INLINE double not_finite(const Matrix<T, R, C>& value)
{
    for (int i = 0; i < R; i++)
        if (double bad = not_finite(value[i]); is_nonzero_or_nan(bad))
            return bad;
    return 0.0;
}

// The address that data_ptr_at returned last, for the atomic operation that it is meant for.
struct LastAddress
{
    const void* address;
    Site site;
    uint32_t tensor, count, index[5];
};
static thread_local LastAddress last_address = {};

SLANGRAST_INLINE bool is_watched(uint32_t tensor, uint32_t what)
{
    return tensor != 0 && (launch_of_thread->tensors[tensor - 1].watched & what) != 0;
}

template<typename T>
SLANGRAST_INLINE void check_atomic(const T* address, const T& value, SlangrastFault fault)
{
    const LastAddress& last = last_address;
    if (last.address != address || !is_watched(last.tensor, SLANGRAST_VALUES))
        return;
    if (double bad = not_finite(value); is_nonzero_or_nan(bad))
        stop_at(fault, last.site, {last.tensor, last.count, last.index}, bad);
}

} // namespace slangrast
