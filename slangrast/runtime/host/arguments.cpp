// Writes the tensors of a launch as a kernel takes them, in a tenth of the time that Python needs to ask torch for their
// addresses, sizes and strides. It reads them through the C exchange API of DLPack, which torch offers for this.
#include <cstdint>
#include <cstring>

namespace
{
struct DLTensor // of DLPack 1
{
    void* data;
    int32_t device_type, device_id;
    int32_t dimensions;
    uint8_t type_code, type_bits;
    uint16_t type_lanes;
    const int64_t* shape;
    const int64_t* strides;
    uint64_t byte_offset;
};

// What is called, given by Python so that nothing has to be linked.
struct Functions
{
    int (*read)(void* tensor, DLTensor* out);
    void* (*list_item)(void* list, intptr_t index); // borrowed
    int (*is_instance)(void* object, void* type);
    void* tensor_type;
};

enum Role : uint32_t
{
    VALUE,
    VALUE_AND_UNTOUCHED_GRADIENT, // the view after it is of a gradient that the kernel never touches
    GRADIENT                      // of the tensor before it, and of its shape
};

struct Place
{
    uint32_t offset;
    uint32_t type_code, type_bits;
    Role role;
};

struct TensorView
{
    uint64_t address;
    uint32_t strides[5], sizes[5], dimensions, padding;
};
static_assert(sizeof(TensorView) == 56, "as layout.py packs it");

const int32_t CPU = 1;
const double untouched = 0.;

bool has_form(const DLTensor& tensor, const Place& place)
{
    if (tensor.type_code != place.type_code || tensor.type_bits != place.type_bits)
        return false;
    return tensor.type_lanes == 1 && tensor.dimensions <= 5 && (tensor.strides || tensor.dimensions == 0);
}

bool make_view(const DLTensor& tensor, TensorView& view)
{
    view = {};
    view.address = uint64_t(tensor.data) + tensor.byte_offset;
    view.dimensions = uint32_t(tensor.dimensions);
    uint64_t span = tensor.type_bits / 8; // bytes from the first element to the end of the last
    for (int32_t k = 0; k < tensor.dimensions; k++)
    {
        uint64_t size = uint64_t(tensor.shape[k]), stride = uint64_t(tensor.strides[k]) * (tensor.type_bits / 8);
        if (size >> 32 || (size > 1 && stride >> 32))
            return false;
        view.sizes[k] = uint32_t(size);
        view.strides[k] = uint32_t(stride);
        span += size ? (size - 1) * stride : 0;
    }
    return tensor.device_type == CPU || span <= uint64_t(1) << 32; // offsets are of 32 bits on a GPU
}
} // namespace

// False where a tensor is not what its place takes. Python, which packs it then, knows how to say what is wrong.
extern "C" bool slangrast_pack(
    const Functions* call, void* list, const Place* places, uint32_t count, uint8_t* out, int32_t device_type)
{
    TensorView view = {}, before = {};
    int32_t device_id = 0; // of the first, and so of all
    for (uint32_t index = 0; index < count; index++)
    {
        const Place& place = places[index];
        void* object = call->list_item(list, index);
        DLTensor tensor = {};
        if (!object || call->is_instance(object, call->tensor_type) != 1 || call->read(object, &tensor) != 0)
            return false;
        device_id = index ? device_id : tensor.device_id;
        if (tensor.device_type != device_type || tensor.device_id != device_id)
            return false;
        if (!has_form(tensor, place) || !make_view(tensor, view))
            return false;
        bool same_shape = view.dimensions == before.dimensions && !std::memcmp(view.sizes, before.sizes, sizeof view.sizes);
        if (place.role == GRADIENT && !same_shape)
            return false;
        std::memcpy(out + place.offset, &view, sizeof view);
        before = view;
        if (place.role == VALUE_AND_UNTOUCHED_GRADIENT)
        {
            view.address = device_type == CPU ? uint64_t(&untouched) : 0;
            std::memset(view.strides, 0, sizeof view.strides);
            std::memcpy(out + place.offset + sizeof view, &view, sizeof view);
        }
    }
    return true;
}
