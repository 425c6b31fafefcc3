"""Reads what slangc wrote: the kernels of a module, their arguments by name, type and place in memory.

The CUDA text tells how each argument lies in memory. The torch binding tells its name in the shader and the dtype of
each tensor, both of which CUDA text has lost (a name is decorated there, a `TensorView` has no type).
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Any

import torch

from .errors import ShaderError
from .layout import ArrayType, BFloat16Type, DiffTensorType, Field, ScalarType, StructType, TensorType


@dataclass(frozen=True)
class Argument:
    name: str
    type: Any
    offset: int
    c_type: str


@dataclass(frozen=True)
class KernelSignature:
    """One entry point: a kernel or one of its derivatives."""

    name: str
    arguments: tuple[Argument, ...]
    size: int

    @functools.cached_property
    def argument_names(self) -> list[str]:
        return [argument.name for argument in self.arguments]


@dataclass(frozen=True)
class KernelFamily:
    """A kernel with the derivatives that Slang generated for it."""

    primal: KernelSignature
    forward_derivative: KernelSignature | None
    backward_derivative: KernelSignature | None

    def entries(self) -> list[KernelSignature]:
        return [entry for entry in (self.primal, self.forward_derivative, self.backward_derivative) if entry]


_SCALARS = {  # by CUDA's name: Slang's name, and the code of Python's struct module
    "bool": ("bool", "?"), "char": ("int8_t", "b"), "uchar": ("uint8_t", "B"), "short": ("int16_t", "h"),
    "ushort": ("uint16_t", "H"), "int": ("int", "i"), "uint": ("uint", "I"), "longlong": ("int64_t", "q"),
    "ulonglong": ("uint64_t", "Q"), "__half": ("half", "e"), "float": ("float", "f"), "double": ("double", "d"),
}  # fmt: skip
_DTYPES = {
    "kFloat32": torch.float32, "kFloat64": torch.float64, "kFloat16": torch.float16, "kBFloat16": torch.bfloat16,
    "kBool": torch.bool, "kInt8": torch.int8, "kUInt8": torch.uint8, "kInt16": torch.int16, "kInt32": torch.int32,
    "kInt64": torch.int64,
}  # fmt: skip

_STRUCT = re.compile(r"^struct (?:__align__\(\d+\) )?(\w+)\n\{\n(.*?)^\};", re.MULTILINE | re.DOTALL)
_FIELD = re.compile(r"^\s+([\w:<>, ()]+?[ >*])\s*(\w+);$", re.MULTILINE)
_KERNEL = re.compile(r"^__global__ void __kernel__(\w+)\((.*?)\)\n\{", re.MULTILINE | re.DOTALL)
_FIXED_ARRAY = re.compile(r"^FixedArray<(.*), (?:int\()?(\d+)\)?>$")
_MATRIX_STORAGE = re.compile(r"^_MatrixStorage_\w+?(\d)x(\d)(?:_|$)")
_STRING = re.compile(r'toTerminatedSlice\("([^"]*)"\)')
_HOST_FUNCTION = re.compile(r"^(\w+)\(\)\n\{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
_TENSOR_VIEW_CALL = re.compile(r'make_tensor_view\(.*?, "(\w+)", torch::(\w+), (true|false)\)')


def read_signatures(cuda_text: str, binding_text: str, *, float64: bool) -> dict[str, KernelFamily]:
    """Every kernel marked [AutoPyBindCUDA], by name. With `float64`, each `float` means double."""
    return _Reader(cuda_text, binding_text, float64).families()


class _Reader:
    def __init__(self, cuda_text: str, binding_text: str, float64: bool) -> None:
        text = re.sub(r"^#line.*\n", "", cuda_text, flags=re.MULTILINE)
        text = re.sub(r"\n{2,}", "\n", text)
        self.float64 = float64
        self.structs = dict(_STRUCT.findall(text))
        self.kernels = dict(_KERNEL.findall(text))
        self.functions = _info(binding_text, "__funcinfo__")
        self.type_info = _info(binding_text, "__typeinfo__")
        self.tensors_of = {name: _tensors(body) for name, body in _HOST_FUNCTION.findall(binding_text)}
        self.tensors: dict[str, set[tuple[torch.dtype, bool]]] = {}  # of the entry that is being read

    def families(self) -> dict[str, KernelFamily]:
        families = {}
        for name, strings in self.functions.items():
            count = (len(strings) - 4) // 2
            names, type_names = strings[2 : 2 + count], strings[2 + count : 2 + 2 * count]
            forward, backward = strings[-2:]
            entries = [self.entry(entry, names, type_names) if entry else None for entry in (name, forward, backward)]
            families[name] = KernelFamily(*entries)  # type: ignore[arg-type]
        return families

    def entry(self, kernel: str, names: list[str], type_names: list[str]) -> KernelSignature:
        if kernel not in self.kernels:
            raise ShaderError(f"slangc wrote no CUDA text for kernel {kernel}")
        self.tensors = self.tensors_of.get(kernel, {})
        declarations = split_arguments(self.kernels[kernel])
        if len(declarations) != len(names):
            raise ShaderError(
                f"kernel {kernel}: slangc changed the number of its arguments: {declarations} for {names}"
            )
        arguments, offset = [], 0
        for declaration, name, type_name in zip(declarations, names, type_names, strict=True):
            c_type = declaration.rpartition(" ")[0].strip()
            type_ = self.type_of(c_type, type_name, name)
            offset = _align(offset, type_.align)
            arguments.append(Argument(name, type_, offset, c_type))
            offset += type_.size
        return KernelSignature(kernel, tuple(arguments), offset)

    def type_of(self, c_type: str, type_name: str, path: str) -> Any:
        """The type that CUDA text spells `c_type`, in the argument or field `path` (joined by underscores)."""
        c_type = c_type.strip()
        if c_type in _SCALARS:
            return ScalarType(*_SCALARS["double" if c_type == "float" and self.float64 else c_type])
        if c_type == "__nv_bfloat16":
            return BFloat16Type("bfloat16", "h")
        if c_type == "TensorView":
            return self.tensor(path)
        if match := _FIXED_ARRAY.match(c_type):
            element_name = self.type_info.get(type_name, ["", "", "", ""])[2]
            element = self.type_of(match[1], element_name, f"{path}_0")
            return ArrayType(element, (int(match[2]),), _array_name(element, int(match[2])))
        if c_type.startswith(("_VectorStorage_", "_MatrixStorage_")):
            return self.storage(c_type, path)
        if c_type.startswith("DiffTensorView_"):
            return self.diff_tensor(c_type, path)
        if c_type in self.structs:
            return self.struct(c_type, type_name, path)
        raise ShaderError(
            f"kernel argument {path} has the type {c_type}, which cannot be passed from Python; allowed are scalars, "
            "vectors, matrices, fixed arrays, structs, TensorView and DiffTensorView"
        )

    def tensor(self, path: str) -> TensorType:
        if path not in self.tensors:
            raise ShaderError(f"slangc's torch binding does not tell the element type of tensor {path}")
        if len(self.tensors[path]) > 1:
            raise ShaderError(
                f"two tensors of one kernel are both called {path} once the names of structs and fields are joined by "
                "underscores, and their types differ: rename one"
            )
        ((dtype, dense),) = self.tensors[path]
        return TensorType(torch.float64 if dtype == torch.float32 and self.float64 else dtype, dense)

    def storage(self, c_type: str, path: str) -> ArrayType:
        """A vector, or a matrix row by row."""
        (field_type, _), *_ = _FIELD.findall(self.structs[c_type])
        array = self.type_of(field_type, "", path)
        matrix = _MATRIX_STORAGE.match(c_type)
        shape = (int(matrix[1]), int(matrix[2])) if matrix else array.shape
        name = re.sub(r"^_(Vector|Matrix)Storage_|(_(Col|Row)Major)?_\d+$", "", c_type)
        return ArrayType(array.element, shape, name)

    def diff_tensor(self, c_type: str, path: str) -> DiffTensorType:
        (_, _), (wrapper, _) = _FIELD.findall(self.structs[c_type])
        primal = self.tensor(f"{path}_primal")
        fields = _FIELD.findall(self.structs.get(wrapper.strip(), ""))
        views = [index for index, (field_type, _) in enumerate(fields) if field_type.strip() == "TensorView"]
        if len(fields) != 1 or not views:
            raise ShaderError(f"{path}: the wrapper {wrapper} of a DiffTensorView must hold one TensorView and no more")
        gradient_name = re.sub(r"_\d+$", "", fields[0][1])
        gradient = self.tensor(f"{path}_diff_{gradient_name}")
        name = re.sub(r"_\d+$", "", wrapper.strip())
        return DiffTensorType(primal, gradient, primal.size, primal.size + gradient.size, c_type, name)

    def struct(self, c_type: str, type_name: str, path: str) -> StructType:
        plain_name = re.sub(r"^U_StructStorage_|_\d+$", "", c_type)
        declared = _FIELD.findall(self.structs[c_type])
        strings = self.type_info.get(type_name or plain_name, [])
        if len(strings) == 2 * len(declared):
            names, type_names = strings[: len(declared)], strings[len(declared) :]
        else:
            names, type_names = [re.sub(r"_\d+$", "", name) for _, name in declared], [""] * len(declared)
        fields, offset, align = [], 0, 1
        for (field_type, c_name), name, inner in zip(declared, names, type_names, strict=True):
            type_ = self.type_of(field_type, inner, f"{path}_{name}")
            offset = _align(offset, type_.align)
            fields.append(Field(name, type_, offset, c_name))
            offset += type_.size
            align = max(align, type_.align)
        python_name = (type_name or plain_name).replace(".", "_")  # a struct in a namespace
        return StructType(python_name, c_type, tuple(fields), _align(offset, align), align)


def _info(binding_text: str, prefix: str) -> dict[str, list[str]]:
    """The strings that each `__funcinfo__X` or `__typeinfo__X` of a torch binding returns."""
    pattern = re.compile(rf"{prefix}([\w.]+)\(\)\n\{{(.*?)\n\}}", re.DOTALL)
    return {name: _STRING.findall(body) for name, body in pattern.findall(binding_text)}


def _tensors(body: str) -> dict[str, set[tuple[torch.dtype, bool]]]:
    """Element type of each tensor of a host function, and whether it must be dense, by path."""
    found: dict[str, set[tuple[torch.dtype, bool]]] = {}
    for path, dtype, dense in _TENSOR_VIEW_CALL.findall(body):
        if dtype in _DTYPES:
            found.setdefault(path, set()).add((_DTYPES[dtype], dense == "true"))
    return found


def _array_name(element: Any, length: int) -> str:
    """As Slang declares it: an array of 2 `float[3]` is a `float[2][3]`."""
    base, bracket, inner = str(element).partition("[")
    return f"{base}[{length}]{bracket}{inner}"


def split_arguments(text: str) -> list[str]:
    """Split at the commas that are not inside `<...>`."""
    parts, depth, start = [], 0, 0
    for index, character in enumerate(text):
        depth += (character == "<") - (character == ">")
        if character == "," and depth == 0:
            parts.append(text[start:index])
            start = index + 1
    parts.append(text[start:])
    return [part.strip() for part in parts if part.strip()]


def _align(offset: int, align: int) -> int:
    return -(-offset // align) * align
