"""Compares the extension that slangtorch compiled with the CPU engine's signatures, and tries to launch its kernels."""

from __future__ import annotations

import contextlib
import ctypes
import re
from typing import Any
from unittest.mock import patch

import torch
from torch.utils.dlpack import from_dlpack, to_dlpack

from slangrast import Module
from slangrast.runtime.cpu_engine import CpuModule
from slangrast.runtime.cuda_engine import CudaModule
from slangrast.runtime.layout import ArrayType, DiffTensorType, ScalarType, StructType, TensorType
from slangrast.runtime.signature import KernelFamily, KernelSignature


def differences(cuda: CudaModule, cpu: CpuModule) -> list[str]:
    """Where the compiled extension and the CPU engine do not agree, in words."""
    prefix = "__funcinfo__"
    compiled = {name.removeprefix(prefix) for name in dir(cuda.binding) if name.startswith(prefix)}
    if not set(cuda.families) == set(cpu.families) == compiled:
        return [f"kernels: compiled {sorted(compiled)}, read {sorted(cuda.families)}, CPU {sorted(cpu.families)}"]
    found: list[str] = []
    for name, family in cpu.families.items():
        found += _family_differences(cuda.binding, name, family, cuda.families[name])
    return found


def _family_differences(binding: Any, name: str, cpu: KernelFamily, cuda: KernelFamily) -> list[str]:
    names, _, forward, backward = getattr(binding, f"__funcinfo__{name}")()
    wanted = ["__blockSize", "__gridSize", *(argument.name for argument in cpu.primal.arguments)]
    found = _unequal(f"{name}: argument names", list(names), wanted)
    for kind, compiled, entry in (("fwd", forward, cpu.forward_derivative), ("bwd", backward, cpu.backward_derivative)):
        found += _unequal(f"{name}.{kind}", compiled, entry.name if entry else "")
    if [entry.name for entry in cpu.entries()] != [entry.name for entry in cuda.entries()]:
        return [*found, f"{name}: the CPU engine has {cpu.entries()}, the CUDA engine {cuda.entries()}"]
    for ours, theirs in zip(cpu.entries(), cuda.entries(), strict=True):
        found += _entry_differences(binding, ours, theirs)
    return found


def _entry_differences(binding: Any, cpu: KernelSignature, cuda: KernelSignature) -> list[str]:
    function = getattr(binding, cpu.name, None)
    if function is None:
        return [f"{cpu.name} is not in the extension"]
    found = _unequal(f"{cpu.name}: types", _compiled_types(function), _expected_types(cpu))
    for ours, theirs in zip(cpu.arguments, cuda.arguments, strict=True):
        where = f"{cpu.name}({ours.name})"
        found += _unequal(f"{where}: signature read for CUDA", _words(theirs.type), _words(ours.type))
        found += _type_differences(binding, ours.type, where)
    return found


def _type_differences(binding: Any, type_: Any, where: str) -> list[str]:
    """Field names of structs, and the wrapper of differentiable tensors, all the way down."""
    if isinstance(type_, ArrayType):
        return _type_differences(binding, type_.element, where)
    if isinstance(type_, DiffTensorType):
        fields, types = binding.__typeinfo__DiffTensorView()
        found = _unequal(f"{where}: fields of DiffTensorView", fields, ("primal", "diff"))
        return found + _unequal(f"{where}: wrapper of DiffTensorView", types[1], type_.wrapper)
    if isinstance(type_, StructType):
        fields, _ = getattr(binding, f"__typeinfo__{type_.name}")()
        found = _unequal(f"{where}: fields of {type_.name}", list(fields), [field.name for field in type_.fields])
        for field in type_.fields:
            found += _type_differences(binding, field.type, f"{where}.{field.name}")
        return found
    return []


def _unequal(what: str, compiled: Any, cpu: Any) -> list[str]:
    return [] if compiled == cpu else [f"{what}: compiled {compiled}, CPU {cpu}"]


def _words(type_: Any) -> str:
    """A type with its dtypes, lengths and field names, but not the numbers that slangc adds to names in C."""
    if isinstance(type_, StructType):
        return f"{type_.name}({', '.join(f'{field.name}: {_words(field.type)}' for field in type_.fields)})"
    if isinstance(type_, ArrayType):
        return f"{_words(type_.element)}{list(type_.shape)}"
    if isinstance(type_, DiffTensorType):
        return f"DiffTensorView<{type_.wrapper}>({_words(type_.primal)}, {_words(type_.gradient)})"
    return f"{type_}{' dense' * getattr(type_, 'dense', False)}"


def _compiled_types(function: Any) -> str:
    """The argument types in the docstring that pybind11 writes, in the words of every pybind11 version."""
    signature = function.__doc__.splitlines()[0]
    types = signature[signature.index("(") + 1 : signature.rindex(") ->")]
    types = re.sub(r"\barg\d+: ", "", types).replace("Tuple", "tuple")
    types = re.sub(r"typing\.SupportsInt( \| typing\.SupportsIndex)?", "int", types)
    return re.sub(r"typing\.SupportsFloat( \| typing\.SupportsIndex)?", "float", types)


def _expected_types(entry: KernelSignature) -> str:
    size = "tuple[int, int, int]"
    return ", ".join([size, size, *(_expected_type(argument.type) for argument in entry.arguments)])


def _expected_type(type_: Any) -> str:
    if isinstance(type_, TensorType):
        return "torch.Tensor"
    if isinstance(type_, DiffTensorType):
        return "tuple[torch.Tensor, tuple[torch.Tensor]]"
    if isinstance(type_, ScalarType):
        return "bool" if type_.code == "?" else "float" if type_.code in "efd" else "int"
    if isinstance(type_, StructType):
        return f"tuple[{', '.join(_expected_type(field.type) for field in type_.fields)}]"
    inner = _expected_type(type_.element)
    for length in reversed(type_.shape):
        inner = f"tuple[{', '.join([inner] * length)}]"
    return inner


_STOPPED_BY_DRIVER = re.compile(r"driver|no CUDA-capable device|No CUDA GPUs")
_DTYPE_REFUSED = "tensor is not of the expected type"


def try_launches(module: Module) -> int:
    """Call every entry point through the engine. It must get as far as the missing driver, and must refuse each tensor
    that has another dtype than the CPU engine's signature says. Returns the number of entry points."""
    build = module._any_build()
    count = 0
    # Without a GPU there is no device to switch to. Tests watch this guard; here it would end the launch too early.
    with patch("torch.cuda.device", lambda device: contextlib.nullcontext()):
        for name, family in build.families.items():
            kernel = getattr(module, name)
            for launched, entry in [
                (kernel, family.primal),
                (family.forward_derivative and kernel.fwd, family.forward_derivative),
                (family.backward_derivative and kernel.bwd, family.backward_derivative),
            ]:
                if entry is not None:
                    _try_launch(launched, build, entry)
                    count += 1
    return count


def _try_launch(kernel: Any, build: CudaModule, entry: KernelSignature) -> None:
    arguments, tensors = _examples(entry)
    launchable = kernel(**arguments)
    error = _error_of(lambda: launchable.launchRaw(blockSize=(1, 1, 1), gridSize=(1, 1, 1)))
    if not _STOPPED_BY_DRIVER.search(str(error)):
        raise AssertionError(f"{entry.name}: a launch ended with {error!r} and not at the missing driver")
    for spoilt in range(tensors):
        wrong = tuple(build.pack(entry, list(arguments.values()), reads_gradients=True).values)
        error = _error_of(lambda: getattr(build.binding, entry.name)((1, 1, 1), (1, 1, 1), *_spoil(wrong, spoilt)))  # noqa: B023
        if _DTYPE_REFUSED not in str(error):
            raise AssertionError(f"{entry.name}: with tensor {spoilt} of a wrong dtype, a launch ended with {error!r}")


def _error_of(call: Any) -> Exception | None:
    try:
        call()
    except Exception as error:
        return error
    return None


def _examples(entry: KernelSignature) -> tuple[dict[str, Any], int]:
    """A value for each argument, and the number of tensors in them."""
    count = 0

    def example(type_: Any) -> Any:
        nonlocal count
        if isinstance(type_, TensorType):
            count += 1
            return on_cuda(torch.zeros((2, 3), dtype=type_.dtype))
        if isinstance(type_, DiffTensorType):
            return (example(type_.primal), example(type_.gradient))
        if isinstance(type_, StructType):
            return type_.python_type(*(example(field.type) for field in type_.fields))
        if isinstance(type_, ArrayType):
            rows = [example(type_.element) for _ in range(type_.shape[-1])]
            return [rows] * type_.shape[0] if len(type_.shape) == 2 else rows
        return {"?": True}.get(type_.code, 1.5 if type_.code in "efd" else 1)

    return {argument.name: example(argument.type) for argument in entry.arguments}, count


def _spoil(values: tuple[Any, ...], which: int) -> list[Any]:
    """`values` with tensor number `which`, however deep, of another dtype."""
    seen = 0

    def visit(value: Any) -> Any:
        nonlocal seen
        if isinstance(value, tuple):
            return tuple(visit(item) for item in value)
        if isinstance(value, torch.Tensor):
            seen += 1
            if seen == which + 1:
                return on_cuda(torch.zeros((2, 3), dtype=torch.complex64))
        return value

    return [visit(value) for value in values]


def on_cuda(tensor: torch.Tensor) -> torch.Tensor:
    """A view of `tensor` that says it is on cuda:0. Only to be looked at: its memory is the host's."""
    capsule = to_dlpack(tensor)
    get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
    get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    device_type = ctypes.c_int32.from_address(get_pointer(capsule, b"dltensor") + 8)  # DLTensor: data, device
    device_type.value = 2  # kDLCUDA
    with patch("torch.cuda._lazy_init", lambda: None):  # there is no driver to initialise
        return from_dlpack(capsule)
