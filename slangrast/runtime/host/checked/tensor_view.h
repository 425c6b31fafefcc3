// TensorView with every access checked. It lies in memory as the other one does; its number stands where that one has
// padding, and tells which argument of the kernel it is.
#pragma once

namespace slangrast
{

// How many values one element holds: 0 for a scalar.
template<typename T>
constexpr uint32_t packed_values = 0;
template<typename T, int N>
inline constexpr uint32_t packed_values<Vec<T, N>> = N;
template<typename T, int R, int C>
inline constexpr uint32_t packed_values<Matrix<T, R, C>> = R * C;

} // namespace slangrast

static const int kSlangTorchTensorMaxDim = 5;

struct TensorView
{
    uint8_t* data;
    uint32_t strides[kSlangTorchTensorMaxDim];
    uint32_t sizes[kSlangTorchTensorMaxDim];
    uint32_t dimensionCount;
    uint32_t number; // from 1; 0 in a view that did not come from Python

    template<typename T>
    SLANGRAST_METHOD T* data_ptr() const
    {
        if (number != 0)
            __atomic_store_n(&slangrast::launch_of_thread->tensors[number - 1].taken, 1, __ATOMIC_RELAXED);
        return reinterpret_cast<T*>(data);
    }

#define SLANGRAST_ACCESS(COUNT, PARAMETERS, ...)                                                                       \
    template<typename T>                                                                                               \
    SLANGRAST_METHOD T* data_ptr_at(PARAMETERS, slangrast::Site site = slangrast::Site::here()) const                  \
    {                                                                                                                  \
        const uint32_t index[] = {__VA_ARGS__};                                                                        \
        return atomic_address<T>(index, COUNT, site);                                                                  \
    }                                                                                                                  \
    template<typename T>                                                                                               \
    SLANGRAST_METHOD T load(PARAMETERS, slangrast::Site site = slangrast::Site::here()) const                          \
    {                                                                                                                  \
        const uint32_t index[] = {__VA_ARGS__};                                                                        \
        return read<T>(index, COUNT, site);                                                                            \
    }                                                                                                                  \
    template<typename T>                                                                                               \
    SLANGRAST_METHOD void store(PARAMETERS, T value, slangrast::Site site = slangrast::Site::here()) const             \
    {                                                                                                                  \
        const uint32_t index[] = {__VA_ARGS__};                                                                        \
        write<T>(index, COUNT, value, site);                                                                           \
    }
#define SLANGRAST_AND ,
    SLANGRAST_ACCESS(1, uint32_t i, i)
    SLANGRAST_ACCESS(2, uint32_t i SLANGRAST_AND uint32_t j, i, j)
    SLANGRAST_ACCESS(3, uint32_t i SLANGRAST_AND uint32_t j SLANGRAST_AND uint32_t k, i, j, k)
    SLANGRAST_ACCESS(4, uint32_t i SLANGRAST_AND uint32_t j SLANGRAST_AND uint32_t k SLANGRAST_AND uint32_t l, i, j, k, l)
    SLANGRAST_ACCESS(
        5,
        uint32_t i SLANGRAST_AND uint32_t j SLANGRAST_AND uint32_t k SLANGRAST_AND uint32_t l SLANGRAST_AND uint32_t m,
        i, j, k, l, m)
    SLANGRAST_ACCESS(2, uint2 at, at.x, at.y)
    SLANGRAST_ACCESS(3, uint3 at, at.x, at.y, at.z)
    SLANGRAST_ACCESS(4, uint4 at, at.x, at.y, at.z, at.w)
#undef SLANGRAST_AND
#undef SLANGRAST_ACCESS

    // An index as an array, one number for each dimension.
    template<typename T, unsigned N>
    SLANGRAST_METHOD T* data_ptr_at(const uint* index, slangrast::Site site = slangrast::Site::here()) const
    {
        return atomic_address<T>(index, N, site);
    }
    template<typename T, unsigned N>
    SLANGRAST_METHOD T load(const uint* index, slangrast::Site site = slangrast::Site::here()) const
    {
        return read<T>(index, N, site);
    }
    template<typename T, unsigned N>
    SLANGRAST_METHOD void store(const uint* index, T value, slangrast::Site site = slangrast::Site::here()) const
    {
        write<T>(index, N, value, site);
    }

private:
    template<typename T>
    T* atomic_address(const uint32_t* index, uint32_t count, slangrast::Site site) const
    {
        T* address = locate<T>(index, count, site);
        note_written(index, count);
        slangrast::LastAddress& last = slangrast::last_address;
        last.address = address;
        last.site = slangrast::in_shader(site);
        last.tensor = number;
        last.count = count;
        for (uint32_t i = 0; i < count; i++)
            last.index[i] = index[i];
        return address;
    }

    template<typename T>
    T read(const uint32_t* index, uint32_t count, slangrast::Site site) const
    {
        const T* address = locate<T>(index, count, site);
        if (slangrast::promise == slangrast::Promise::reads_gradient_once)
            take_once(index, count, site, SLANGRAST_GRADIENT_READ_TWICE);
        return *address;
    }

    template<typename T>
    void write(const uint32_t* index, uint32_t count, const T& value, slangrast::Site site) const
    {
        T* address = locate<T>(index, count, site);
        if (slangrast::is_watched(number, SLANGRAST_VALUES))
            if (double bad = slangrast::not_finite(value); slangrast::is_nonzero_or_nan(bad))
                slangrast::stop_at(SLANGRAST_STORED_NOT_FINITE, site, {number, count, index}, bad);
        if (slangrast::promise == slangrast::Promise::stores_once)
            take_once(index, count, site, SLANGRAST_STORED_TWICE);
        note_written(index, count);
        *address = value;
    }

    // The address of an element, or the end of the launch.
    template<typename T>
    T* locate(const uint32_t* index, uint32_t count, slangrast::Site site) const
    {
        constexpr uint32_t packed = slangrast::packed_values<T>;
        if (packed == 0 ? count != dimensionCount : count >= dimensionCount || values_from(count) != packed)
            slangrast::stop_at(SLANGRAST_WRONG_DIMENSIONS, site, {number, count, index}, packed);
        uint64_t bytes = 0;
        for (uint32_t i = 0; i < count; i++)
        {
            if (index[i] >= sizes[i])
                slangrast::stop_at(SLANGRAST_OUT_OF_RANGE, site, {number, count, index}, 0.0);
            bytes += uint64_t(strides[i]) * index[i];
        }
        return reinterpret_cast<T*>(data + bytes);
    }

    // How many values the dimensions after the first `count` hold: those of one element.
    uint64_t values_from(uint32_t count) const
    {
        uint64_t values = 1;
        for (uint32_t i = count; i < dimensionCount; i++)
            values *= sizes[i];
        return values;
    }

    // The first of the bytes that are kept of an element.
    uint8_t* seen_at(const uint32_t* index, uint32_t count) const
    {
        uint64_t place = 0;
        for (uint32_t i = 0; i < count; i++)
            place = place * sizes[i] + index[i];
        return slangrast::launch_of_thread->tensors[number - 1].seen + place * values_from(count);
    }

    void note_written(const uint32_t* index, uint32_t count) const
    {
        if (!slangrast::is_watched(number, SLANGRAST_WRITES))
            return;
        uint8_t* seen = seen_at(index, count);
        for (uint64_t i = 0; i < values_from(count); i++)
            __atomic_fetch_or(seen + i, SLANGRAST_WRITTEN, __ATOMIC_RELAXED);
    }

    void take_once(const uint32_t* index, uint32_t count, slangrast::Site site, SlangrastFault fault) const
    {
        if (!slangrast::is_watched(number, SLANGRAST_ONCE))
            return;
        if (__atomic_fetch_or(seen_at(index, count), SLANGRAST_TAKEN_ONCE, __ATOMIC_RELAXED) & SLANGRAST_TAKEN_ONCE)
            slangrast::stop_at(fault, site, {number, count, index}, 0.0);
    }
};
