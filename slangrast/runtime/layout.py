"""The types of kernel arguments, and how a Python value becomes the bytes that the compiled kernel reads.

Slang passes every argument in a storage form made of plain scalars, fixed arrays, `TensorView`s and structs of
these, laid out by the rules of C. The same bytes serve the host and a launch by the CUDA driver.
"""

from __future__ import annotations

import functools
import math
import struct
from collections import namedtuple
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy
import torch

from .kept_tensors import keep_tensors

DiffTensorView = namedtuple("DiffTensorView", ["value", "grad"], defaults=[None])
DiffTensorView.__doc__ = "A differentiable tensor argument: `value`, and `grad`, which `.bwd` reads or adds to."

_MAX_DIMENSIONS = 5
_TENSOR_VIEW = struct.Struct("=Q5I5II4x")


class ArgumentError(ValueError):
    """A value that does not fit the type of its kernel argument; the kernel's name is added on the way out."""


@dataclass
class PackContext:
    """What packing must know beyond the value: where tensors have to be, and what must outlive the launch."""

    buffer: bytearray
    device: torch.device | None
    keep_alive: list[torch.Tensor]
    reads_gradients: bool

    def admit(self, tensor: torch.Tensor, path: str) -> None:
        """Take in a tensor that the kernel is to read or write. An engine that can do less refuses it here."""
        self.keep_alive.append(tensor)

    def refuse_elsewhere(self, value: Any, path: str) -> None:
        """A number, or several, may be given as a tensor, but not on a device where the kernel is not."""
        if isinstance(value, torch.Tensor) and self.device and value.device.type not in ("cpu", self.device.type):
            raise ArgumentError(f"{path} must be on {self.device}, got a tensor on {value.device}")


@dataclass(frozen=True)
class ScalarType:
    """A number: `name` as Slang spells it, `code` for the struct module."""

    name: str
    code: str

    @property
    def size(self) -> int:
        return struct.calcsize("=" + self.code)

    @property
    def align(self) -> int:
        return self.size

    def __str__(self) -> str:
        return self.name

    def convert(self, value: Any, path: str) -> Any:
        """`value` as a Python number of this type. What it cannot hold is refused: never wrapped, never truncated."""
        number = _number(value)
        if number is not None and self.code in "efd":
            try:
                return float(number)
            except OverflowError:
                return math.inf if number > 0 else -math.inf
        if isinstance(number, int):
            return bool(number) if self.code == "?" else self._in_range(number, path)
        wanted = {"?": "True or False", "e": "a number", "f": "a number", "d": "a number"}.get(self.code, "an integer")
        raise ArgumentError(f"{path} must be {wanted} ({self.name}), got {_describe(value)}")

    def _in_range(self, number: int, path: str) -> int:
        bits = 8 * self.size
        low, high = (0, 2**bits - 1) if self.code.isupper() else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        if not low <= number <= high:
            raise ArgumentError(f"{path} must be in [{low}, {high}] for {self.name}, got {number}")
        return int(number)

    def pack(self, value: Any, offset: int, path: str, context: PackContext) -> None:
        if type(value) is not self._plain:
            context.refuse_elsewhere(value, path)
            value = self.convert(value, path)
        try:
            self._struct.pack_into(context.buffer, offset, value)
        except (OverflowError, struct.error):
            value = self.convert(value, path)  # says what is wrong with an integer
            # A number beyond the range of half or float becomes what a cast in C makes of it.
            self._struct.pack_into(context.buffer, offset, math.copysign(math.inf, value))

    @functools.cached_property
    def _struct(self) -> struct.Struct:
        return struct.Struct("=" + self.code)

    @functools.cached_property
    def _plain(self) -> type:
        """The type of Python whose values need no conversion."""
        return float if self.code in "efd" else bool if self.code == "?" else int


@dataclass(frozen=True)
class BFloat16Type(ScalarType):
    """bfloat16 has no struct code: it travels as the upper half of a float, rounded to nearest even."""

    @property
    def size(self) -> int:
        return 2

    def convert(self, value: Any, path: str) -> Any:
        number = torch.tensor(float(ScalarType("float", "f").convert(value, path)), dtype=torch.bfloat16)
        return number.view(torch.int16).item()

    def pack(self, value: Any, offset: int, path: str, context: PackContext) -> None:
        struct.pack_into("=h", context.buffer, offset, self.convert(value, path))


@dataclass(frozen=True)
class TensorType:
    """A `TensorView`: at most 5 dimensions, one dtype, any strides (dense where its elements are vectors)."""

    dtype: torch.dtype
    dense: bool = False

    size = _TENSOR_VIEW.size
    align = 8

    def __str__(self) -> str:
        return f"tensor of {_dtype_name(self.dtype)}"

    def check(self, value: Any, path: str, device: torch.device | None) -> torch.Tensor:
        """`value` where a kernel can read it, else an error that says what was got and what is allowed."""
        if not isinstance(value, torch.Tensor):
            raise ArgumentError(f"{path} must be a {self}, got {_describe(value)}")
        if value.layout != torch.strided:
            raise ArgumentError(f"{path} must be a strided tensor, got {value.layout}: call .to_dense() first")
        if value.dtype != self.dtype:
            raise ArgumentError(f"{path} must be a {self}, got {_dtype_name(value.dtype)}")
        if device is not None and value.device != device:
            raise ArgumentError(f"{path} must be on {device}, got a tensor on {value.device}")
        if value.dim() > _MAX_DIMENSIONS:
            raise ArgumentError(f"{path} must have at most {_MAX_DIMENSIONS} dimensions, got {value.dim()}")
        if self.dense and not value.is_contiguous():
            raise ArgumentError(f"{path} has vectors as elements and must be contiguous: call .contiguous() first")
        if value.is_neg():
            raise ArgumentError(f"{path} is a lazy negative view: call .resolve_neg() first")
        element = value.element_size()
        for length, stride in zip(value.shape, value.stride(), strict=True):
            if length >= 2**32 or (length > 1 and stride * element >= 2**32):
                raise ArgumentError(
                    f"{path} is too large: Slang keeps sizes and byte strides in 32 bits, got shape "
                    f"{tuple(value.shape)} and strides {value.stride()}; split it, or make it contiguous"
                )
        return value

    def pack(self, value: Any, offset: int, path: str, context: PackContext) -> None:
        tensor = self.check(value, path, context.device)
        context.admit(tensor, path)
        dimensions = tensor.dim()
        element = tensor.element_size()
        padding = (0,) * (_MAX_DIMENSIONS - dimensions)
        strides = [stride * element & 0xFFFFFFFF for stride in tensor.stride()]  # of a length of 1: any number does
        _TENSOR_VIEW.pack_into(
            context.buffer, offset, tensor.data_ptr(), *strides, *padding, *tensor.shape, *padding, dimensions
        )


@dataclass(frozen=True)
class ArrayType:
    """A fixed array. `shape` is `(n,)` for arrays and vectors and `(rows, columns)` for matrices."""

    element: Any
    shape: tuple[int, ...]
    name: str

    @property
    def size(self) -> int:
        return self.element.size * math.prod(self.shape)

    @property
    def align(self) -> int:
        return self.element.align

    def __str__(self) -> str:
        return self.name

    def items(self, value: Any, path: str) -> list[Any]:
        """The elements of a nested sequence, row by row."""
        if isinstance(value, torch.Tensor) and not isinstance(self.element, TensorType):
            value = value.tolist()
        items = [value]
        for length in self.shape:
            deeper: list[Any] = []
            for item in items:
                item = item.tolist() if hasattr(item, "tolist") else item
                if not isinstance(item, (tuple, list)) or len(item) != length:
                    wanted = " x ".join(map(str, self.shape))
                    raise ArgumentError(
                        f"{path} must be a tuple or list of {wanted} ({self.name}), got {_describe(value)}"
                    )
                deeper.extend(item)
            items = deeper
        return items

    def pack(self, value: Any, offset: int, path: str, context: PackContext) -> None:
        context.refuse_elsewhere(value, path)
        for index, item in enumerate(self.items(value, path)):
            self.element.pack(item, offset + index * self.element.size, f"{path}[{index}]", context)


@dataclass(frozen=True)
class Field:
    name: str
    type: Any
    offset: int
    c_name: str


@dataclass(frozen=True)
class StructType:
    """A Slang struct: given from Python as its named tuple, a tuple, a list or a dict."""

    name: str
    c_name: str
    fields: tuple[Field, ...]
    size: int
    align: int

    @property
    def python_type(self) -> type:
        return _named_tuple(self.name, tuple(field.name for field in self.fields))

    def __str__(self) -> str:
        return f"{self.name}({', '.join(field.name for field in self.fields)})"

    def values(self, value: Any, path: str) -> list[Any]:
        names = [field.name for field in self.fields]
        if isinstance(value, Mapping):
            if set(value) == set(names):
                return [value[name] for name in names]
        elif isinstance(value, (tuple, list)) and len(value) == len(names):
            given = getattr(value, "_fields", names)
            if list(given) == names:
                return list(value)
        raise ArgumentError(f"{path} must be a {self}, as a named tuple, tuple or dict, got {_describe(value)}")

    def pack(self, value: Any, offset: int, path: str, context: PackContext) -> None:
        for field, item in zip(self.fields, self.values(value, path), strict=True):
            field.type.pack(item, offset + field.offset, f"{path}.{field.name}", context)


@dataclass(frozen=True)
class DiffTensorType:
    """A `DiffTensorView`: a tensor and the tensor of its gradient, inside whatever wrapper the shader chose."""

    primal: TensorType
    gradient: TensorType
    gradient_offset: int
    size: int
    c_name: str
    wrapper: str

    align = 8

    def __str__(self) -> str:
        return f"DiffTensorView of {_dtype_name(self.primal.dtype)}"

    def split(self, value: Any, path: str) -> tuple[Any, Any]:
        """Value and gradient of a DiffTensorView, a tuple of one or two, or a bare tensor."""
        if isinstance(value, torch.Tensor):
            return value, None
        if isinstance(value, (tuple, list)) and len(value) in (1, 2):
            gradient = value[1] if len(value) == 2 else None
            if isinstance(gradient, (tuple, list)) and len(gradient) == 1:
                gradient = gradient[0]  # the wrapper struct around the gradient, as slangtorch also takes it
            return value[0], gradient
        raise ArgumentError(f"{path} must be a tensor, (value, grad) or DiffTensorView, got {_describe(value)}")

    def check(self, value: Any, path: str, device: torch.device | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        tensor, gradient = self.split(value, path)
        tensor = self.primal.check(tensor, path, device)
        if gradient is None:
            return tensor, None
        gradient = self.gradient.check(gradient, f"{path}.grad", device)
        if gradient.shape != tensor.shape:
            raise ArgumentError(
                f"{path}.grad must have the shape of its value, {tuple(tensor.shape)}, got {tuple(gradient.shape)}"
            )
        return tensor, gradient

    def pack(self, value: Any, offset: int, path: str, context: PackContext) -> None:
        tensor, gradient = self.check(value, path, context.device)
        if gradient is None and context.reads_gradients:
            # A derivative reads zeros here, and what it adds or stores is its own: elements may not share memory.
            gradient = torch.zeros(tensor.shape, dtype=self.gradient.dtype, device=tensor.device)
        elif gradient is None:
            gradient = _untouched(self.gradient.dtype, tensor.device).expand(tensor.shape)
        self.primal.pack(tensor, offset, path, context)
        self.gradient.pack(gradient, offset + self.gradient_offset, f"{path}.grad", context)


@keep_tensors(256)
def _untouched(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """One element that poses as every gradient of a kernel that is no derivative: it never touches them."""
    return torch.zeros((), dtype=dtype, device=device)


def layout_checks(arguments: Iterable[tuple[str, Any]]) -> list[str]:
    """Static assertions of C++ for arguments, each given as its C type and the type that Python packs it by: a silent
    disagreement on a size or an alignment, from which all places follow, would be a wrong number."""
    checks: dict[str, None] = {}

    def visit(c_type: str, type_: Any, what: str) -> None:
        claim = f"sizeof({c_type}) == {type_.size} && alignof({c_type}) == {type_.align}"
        checks[f'static_assert({claim}, "layout of {what}");'] = None
        while isinstance(type_, ArrayType):
            type_ = type_.element
        for field in type_.fields if isinstance(type_, StructType) else ():
            member = f"{type_.c_name}::{field.c_name}"
            visit(f"decltype({member})", field.type, member)

    for c_type, type_ in arguments:
        visit(c_type, type_, c_type)
    return list(checks)


_NAMED_TUPLES: dict[tuple[str, tuple[str, ...]], type] = {}


def _named_tuple(name: str, fields: tuple[str, ...]) -> type:
    """One class for one name and fields, so that a reload leaves the user's instances valid."""
    if (name, fields) not in _NAMED_TUPLES:
        _NAMED_TUPLES[name, fields] = namedtuple(name, fields)
    return _NAMED_TUPLES[name, fields]


def _number(value: Any) -> int | float | None:
    """The number that `value` is, or holds as its only element; None where it is none, or complex."""
    if isinstance(value, torch.Tensor):
        value = value.item() if value.numel() == 1 else None
    elif isinstance(value, (numpy.ndarray, numpy.generic)):
        value = value.item() if value.size == 1 else None
    elif hasattr(value, "__index__"):
        value = value.__index__()
    elif hasattr(value, "__float__"):
        value = value.__float__()
    return value if isinstance(value, (int, float)) else None


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _describe(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"a tensor {list(value.shape)} of {_dtype_name(value.dtype)}"
    return f"{type(value).__name__} {value!r}"[:120]
