// FixedArray, groupshared or a thread's own, with its index checked.
#pragma once

namespace slangrast
{

// An operator cannot have a default argument, but what its argument is made from can.
struct ArrayIndex
{
    int64_t value;
    Site site;

    template<typename T>
    SLANGRAST_METHOD ArrayIndex(T value, Site site = Site::here()) : value(int64_t(value)), site(site)
    {
    }
};

[[noreturn]] static void stop_at_array(ArrayIndex index, int64_t length);

} // namespace slangrast

template<typename T, size_t N>
struct FixedArray
{
    SLANGRAST_METHOD T& operator[](slangrast::ArrayIndex index) { return m_data[checked(index)]; }
    SLANGRAST_METHOD const T& operator[](slangrast::ArrayIndex index) const { return m_data[checked(index)]; }

    SLANGRAST_METHOD static size_t checked(slangrast::ArrayIndex index)
    {
        if (uint64_t(index.value) >= N)
            slangrast::stop_at_array(index, N);
        return size_t(index.value);
    }

    T m_data[N];
};
