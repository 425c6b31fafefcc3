// TensorView: a tensor's address, its strides in bytes and its sizes, as slangtorch passes them. Offsets are summed in
// 64 bits, because a 32-bit stride times an index may pass 4 GiB.
#pragma once

static const int kSlangTorchTensorMaxDim = 5;

struct TensorView
{
    uint8_t* data;
    uint32_t strides[kSlangTorchTensorMaxDim];
    uint32_t sizes[kSlangTorchTensorMaxDim];
    uint32_t dimensionCount;

    template<typename T>
    SLANGRAST_METHOD T* data_ptr() const
    {
        return reinterpret_cast<T*>(data);
    }

    SLANGRAST_METHOD uint64_t offset(uint32_t i) const { return uint64_t(strides[0]) * i; }
    SLANGRAST_METHOD uint64_t offset(uint32_t i, uint32_t j) const { return offset(i) + uint64_t(strides[1]) * j; }
    SLANGRAST_METHOD uint64_t offset(uint32_t i, uint32_t j, uint32_t k) const
    {
        return offset(i, j) + uint64_t(strides[2]) * k;
    }
    SLANGRAST_METHOD uint64_t offset(uint32_t i, uint32_t j, uint32_t k, uint32_t l) const
    {
        return offset(i, j, k) + uint64_t(strides[3]) * l;
    }
    SLANGRAST_METHOD uint64_t offset(uint32_t i, uint32_t j, uint32_t k, uint32_t l, uint32_t m) const
    {
        return offset(i, j, k, l) + uint64_t(strides[4]) * m;
    }
    SLANGRAST_METHOD uint64_t offset(uint2 index) const { return offset(index.x, index.y); }
    SLANGRAST_METHOD uint64_t offset(uint3 index) const { return offset(index.x, index.y, index.z); }
    SLANGRAST_METHOD uint64_t offset(uint4 index) const { return offset(index.x, index.y, index.z, index.w); }

    template<typename T, typename... Index>
    SLANGRAST_METHOD T* data_ptr_at(Index... index) const
    {
        return reinterpret_cast<T*>(data + offset(index...));
    }

    template<typename T, typename... Index>
    SLANGRAST_METHOD T& load(Index... index) const
    {
        return *data_ptr_at<T>(index...);
    }

    template<typename T>
    SLANGRAST_METHOD void store(uint32_t i, T value) const
    {
        load<T>(i) = value;
    }
    template<typename T>
    SLANGRAST_METHOD void store(uint32_t i, uint32_t j, T value) const
    {
        load<T>(i, j) = value;
    }
    template<typename T>
    SLANGRAST_METHOD void store(uint32_t i, uint32_t j, uint32_t k, T value) const
    {
        load<T>(i, j, k) = value;
    }
    template<typename T>
    SLANGRAST_METHOD void store(uint32_t i, uint32_t j, uint32_t k, uint32_t l, T value) const
    {
        load<T>(i, j, k, l) = value;
    }
    template<typename T>
    SLANGRAST_METHOD void store(uint32_t i, uint32_t j, uint32_t k, uint32_t l, uint32_t m, T value) const
    {
        load<T>(i, j, k, l, m) = value;
    }
    template<typename T>
    SLANGRAST_METHOD void store(uint2 index, T value) const
    {
        load<T>(index) = value;
    }
    template<typename T>
    SLANGRAST_METHOD void store(uint3 index, T value) const
    {
        load<T>(index) = value;
    }
    template<typename T>
    SLANGRAST_METHOD void store(uint4 index, T value) const
    {
        load<T>(index) = value;
    }

    // An index as an array, one number for each dimension.
    template<typename T, unsigned N>
    SLANGRAST_METHOD T* data_ptr_at(const uint* index) const
    {
        uint64_t bytes = 0;
        for (unsigned i = 0; i < N; i++)
            bytes += uint64_t(strides[i]) * index[i];
        return reinterpret_cast<T*>(data + bytes);
    }
    template<typename T, unsigned N>
    SLANGRAST_METHOD T& load(const uint* index) const
    {
        return *data_ptr_at<T, N>(index);
    }
    template<typename T, unsigned N>
    SLANGRAST_METHOD void store(const uint* index, T value) const
    {
        load<T, N>(index) = value;
    }
};
