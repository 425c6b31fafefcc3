"""Arguments to bytes at the speed of a small launch, by host/arguments.cpp. What it does not know, layout.py packs."""

from __future__ import annotations

import ctypes
import functools
import struct
from collections.abc import Sequence
from typing import Any

import torch

from .cache import digest, find_or_build
from .errors import ShaderError
from .host_compiler import HOST_FOLDER, host_compiler, host_sources_digest
from .layout import DiffTensorType, PackContext, ScalarType, TensorType

_PLAIN = {int, float}
_VALUE, _VALUE_AND_UNTOUCHED_GRADIENT, _GRADIENT = range(3)  # as Role
CPU, CUDA = 1, 2  # DLPack's
_CODES = {  # DLPack's, and the bits of an element
    torch.bool: (6, 8), torch.uint8: (1, 8), torch.int8: (0, 8), torch.int16: (0, 16), torch.int32: (0, 32),
    torch.int64: (0, 64), torch.float16: (2, 16), torch.bfloat16: (4, 16), torch.float32: (2, 32),
    torch.float64: (2, 64),
}  # fmt: skip


class _Place(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("offset", "type_code", "type_bits", "role")]


class _Functions(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("read", "list_item", "is_instance", "tensor_type")]


class _ExchangeApi(ctypes.Structure):  # DLPackExchangeAPI, version 1
    _fields_ = [
        ("major", ctypes.c_uint32), ("minor", ctypes.c_uint32), ("previous", ctypes.c_void_p),
        *((f"function_{index}", ctypes.c_void_p) for index in range(3)), ("read", ctypes.c_void_p),
    ]  # fmt: skip


class Packer:
    """Packs the arguments of one kernel, or of one derivative of it. Tensors must all be on one device of one kind."""

    def __init__(self, arguments: Sequence[Any], reads_gradients: bool, device_type: int = CPU) -> None:
        self._device_type = device_type
        self._scalars: list[int] = []
        self._tensors: list[tuple[int, bool]] = []  # which argument, and whether a gradient comes with it
        self._dense: list[int] = []  # which arguments have vectors as elements
        self._is_simple = True
        places: list[tuple[int, int, int, int]] = []
        scalars: list[Any] = []
        for index, one in enumerate(arguments):
            if isinstance(one.type, DiffTensorType) and one.type.gradient_offset == one.type.primal.size:
                value, gradient = _CODES[one.type.primal.dtype], _CODES[one.type.gradient.dtype]
                self._tensors.append((index, reads_gradients))
                if reads_gradients:
                    places.append((one.offset, *value, _VALUE))
                    places.append((one.offset + one.type.gradient_offset, *gradient, _GRADIENT))
                else:
                    places.append((one.offset, *value, _VALUE_AND_UNTOUCHED_GRADIENT))
            elif isinstance(one.type, TensorType):
                self._tensors.append((index, False))
                self._dense += [index] if one.type.dense else []
                places.append((one.offset, *_CODES[one.type.dtype], _VALUE))
            elif type(one.type) is ScalarType and one.type.code != "?":
                self._scalars.append(index)
                scalars.append(one)
            else:
                self._is_simple = False
        self._places = (_Place * len(places))(*(_Place(*place) for place in places))
        self._numbers = struct.Struct(_format_of(scalars))

    def pack(self, values: list[Any], context: PackContext) -> bool:
        """Fill the buffer; False where an argument is not of the plainest form, and is to be packed by its type."""
        library = _library()
        if library is None or not self._is_simple:
            return False
        tensors: list[torch.Tensor] = []
        for index, has_gradient in self._tensors:
            value = values[index]
            if not has_gradient:
                tensors.append(value)
            elif type(value) is tuple and len(value) == 2:
                tensors += value
            else:
                return False
        numbers = [values[index] for index in self._scalars]
        if not _PLAIN.issuperset(map(type, numbers)):
            return False
        call, functions = library
        try:
            self._numbers.pack_into(context.buffer, 0, *numbers)  # and zeros between them: tensors come after it
            # DLPack does not tell of a lazy negation.
            if any(map(torch.Tensor.is_neg, tensors)):
                return False
            if not all(values[index].is_contiguous() for index in self._dense):
                return False
            start = ctypes.byref(ctypes.c_char.from_buffer(context.buffer))
            if not call(functions, tensors, self._places, len(self._places), start, self._device_type):
                return False
        except Exception:  # no tensor, one without memory of its own, a number out of range: the types say which
            return False
        context.keep_alive += tensors
        return True


@functools.cache
def has_compiler() -> bool:
    """Whether there is a C++ compiler that makes what packs: without one, kernels still run on CUDA."""
    try:
        host_compiler()
        _library()
    except ShaderError:  # there is none, or it lacks headers
        return False
    return True


def _format_of(scalars: Sequence[Any]) -> str:
    text, end = "=", 0
    for one in scalars:
        text += f"{one.offset - end}x{one.type.code}"
        end = one.offset + one.type.size
    return text


@functools.cache
def _library() -> tuple[Any, Any] | None:
    """`slangrast_pack` and what it calls; None where torch is older than the exchange API (2.10)."""
    capsule = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)
    python = ctypes.pythonapi
    if type(capsule).__name__ != "PyCapsule":
        return None
    get_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
        ("PyCapsule_GetPointer", python)
    )
    api = _ExchangeApi.from_address(get_pointer(capsule, b"dlpack_exchange_api"))
    if api.major != 1 or not api.read:
        return None
    list_item, is_instance = (
        ctypes.cast(function, ctypes.c_void_p).value for function in (python.PyList_GetItem, python.PyObject_IsInstance)
    )
    call = ctypes.PyDLL(_build()).slangrast_pack  # which holds the lock of Python, as those functions need it
    call.restype = ctypes.c_bool
    pointer, number = ctypes.c_void_p, ctypes.c_uint32
    call.argtypes = [pointer, ctypes.py_object, pointer, number, pointer, number]
    functions = _Functions(api.read, list_item, is_instance, id(torch.Tensor))
    return call, ctypes.pointer(functions)


def _build() -> str:
    compiler = host_compiler()
    flags = ("-std=c++17", "-O2", "-fPIC", "-shared")

    def build(folder: Any) -> list[str]:
        compiler.build(HOST_FOLDER / "arguments.cpp", folder / "arguments.so", flags, "the packing of arguments")
        return []

    return str(find_or_build(digest("arguments", compiler.identity, host_sources_digest()), (), build) / "arguments.so")
