// Structured and byte-address buffers: an address and a size, laid out as CUDA programs expect them.
#pragma once

template<typename T>
struct StructuredBuffer
{
    SLANGRAST_METHOD T& operator[](size_t index) const { return data[index]; }
    SLANGRAST_METHOD T& Load(size_t index) const { return data[index]; }
    SLANGRAST_METHOD void GetDimensions(uint32_t* element_count, uint32_t* stride) const
    {
        *element_count = uint32_t(count);
        *stride = uint32_t(sizeof(T));
    }

    T* data;
    size_t count;
};

template<typename T>
struct RWStructuredBuffer : StructuredBuffer<T>
{
};

struct RWByteAddressBuffer
{
    template<typename T>
    SLANGRAST_METHOD T Load(size_t index) const
    {
        T result;
        memcpy(&result, reinterpret_cast<const char*>(data) + index, sizeof(T));
        return result;
    }

    template<typename T>
    SLANGRAST_METHOD void Store(size_t index, const T& value) const
    {
        memcpy(reinterpret_cast<char*>(data) + index, &value, sizeof(T));
    }

    // The forms without a type write a vector's elements without the padding that its alignment may add.
    SLANGRAST_METHOD uint32_t Load(size_t index) const { return Load<uint32_t>(index); }
    SLANGRAST_METHOD uint2 Load2(size_t index) const { return {Load(index), Load(index + 4)}; }
    SLANGRAST_METHOD uint3 Load3(size_t index) const { return {Load(index), Load(index + 4), Load(index + 8)}; }
    SLANGRAST_METHOD uint4 Load4(size_t index) const
    {
        return {Load(index), Load(index + 4), Load(index + 8), Load(index + 12)};
    }
    SLANGRAST_METHOD void Store(size_t index, uint32_t value) const { Store<uint32_t>(index, value); }
    SLANGRAST_METHOD void Store2(size_t index, uint2 value) const { memcpy(_getPtrAt<char>(index), &value, 8); }
    SLANGRAST_METHOD void Store3(size_t index, uint3 value) const { memcpy(_getPtrAt<char>(index), &value, 12); }
    SLANGRAST_METHOD void Store4(size_t index, uint4 value) const { memcpy(_getPtrAt<char>(index), &value, 16); }

    template<typename T>
    SLANGRAST_METHOD T* _getPtrAt(size_t index) const
    {
        return reinterpret_cast<T*>(reinterpret_cast<char*>(data) + index);
    }
    template<typename T>
    SLANGRAST_METHOD RWStructuredBuffer<T> asStructuredBuffer() const
    {
        RWStructuredBuffer<T> buffer;
        buffer.data = reinterpret_cast<T*>(data);
        buffer.count = sizeInBytes / sizeof(T);
        return buffer;
    }
    SLANGRAST_METHOD void GetDimensions(uint32_t* size) const { *size = uint32_t(sizeInBytes); }

    uint32_t* data;
    size_t sizeInBytes;
};

typedef RWByteAddressBuffer ByteAddressBuffer;
