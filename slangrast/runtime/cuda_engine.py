"""The CUDA engine: slangtorch builds the module with nvcc. The only file that imports slangtorch.

What slangtorch leaves to its caller is handled here: it keeps its build folder beside the shader (ours is in the
cache), turns fast math on and adds to the flag list it is given (we pass a fresh list and ask for neither), waits for
ever on the lock of a build that was killed (we remove it, under a lock of our own), launches on whatever device is
current (we set the tensors'), refuses expanded tensors (we copy them), and gives bare differentiable tensors a
gradient of one element on the current device (we give one of the right size and device).
"""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from filelock import FileLock

from .cache import cache_folder, digest
from .cpu_engine import BuildRequest
from .errors import ShaderError, parse_host_compiler_output, parse_slangc_output
from .layout import ArgumentError, ArrayType, DiffTensorType, StructType, TensorType
from .signature import KernelFamily, KernelSignature, read_signatures
from .slang_compiler import SlangOutput, compile_slang


class CudaModule:
    """One build of a module by slangtorch."""

    device_type = "cuda"

    def __init__(self, key: str, families: dict[str, KernelFamily], compiled: Any) -> None:
        self.key = key
        self.families = families
        self._compiled = compiled

    def pack(self, entry: KernelSignature, values: list[Any], *, reads_gradients: bool) -> dict[str, Any]:
        devices: list[torch.device] = []
        arguments = {}
        for argument, value in zip(entry.arguments, values, strict=True):
            arguments[argument.name] = _marshal(argument.type, value, argument.name, devices, reads_gradients)
        arguments["__device"] = devices[0] if devices else torch.device("cuda", torch.cuda.current_device())
        return arguments

    def launch(self, entry: KernelSignature, packed: dict[str, Any], block: tuple[int, ...], grid: tuple[int, ...]) -> None:
        arguments = dict(packed)
        with torch.cuda.device(arguments.pop("__device")):
            self._function(entry)(**arguments).launchRaw(blockSize=block, gridSize=grid)

    def _function(self, entry: KernelSignature) -> Callable[..., Any]:
        for name, family in self.families.items():
            kernel = getattr(self._compiled, name)
            if entry is family.primal:
                return kernel
            if entry is family.forward_derivative:
                return kernel.fwd
            if entry is family.backward_derivative:
                return kernel.bwd
        raise ShaderError(f"kernel {entry.name} belongs to another build of its module")


def _marshal(type_: Any, value: Any, path: str, devices: list[torch.device], reads_gradients: bool) -> Any:
    """`value` in the form that slangtorch's wrappers take, checked as on the CPU."""
    if isinstance(type_, TensorType):
        return _tensor(type_, value, path, devices)
    if isinstance(type_, DiffTensorType):
        tensor, gradient = type_.check(value, path, None)
        tensor = _tensor(type_.primal, tensor, path, devices)
        if gradient is None:
            # A derivative kernel may add anywhere in it; the kernel itself never touches it.
            shape = tensor.shape if reads_gradients else (1,)
            gradient = torch.zeros(shape, dtype=type_.gradient.dtype, device=tensor.device)
        return (tensor, (_tensor(type_.gradient, gradient, f"{path}.grad", devices),))
    if isinstance(type_, StructType):
        values = type_.values(value, path)
        return tuple(
            _marshal(field.type, item, f"{path}.{field.name}", devices, reads_gradients)
            for field, item in zip(type_.fields, values, strict=True)
        )
    if isinstance(type_, ArrayType):
        items = [
            _marshal(type_.element, item, f"{path}[{index}]", devices, reads_gradients)
            for index, item in enumerate(type_.items(value, path))
        ]
        columns = type_.shape[-1]
        if len(type_.shape) == 2:
            return tuple(tuple(items[row : row + columns]) for row in range(0, len(items), columns))
        return tuple(items)
    return type_.convert(value, path)


def _tensor(type_: TensorType, value: Any, path: str, devices: list[torch.device]) -> torch.Tensor:
    tensor = type_.check(value, path, devices[0] if devices else None)
    if tensor.device.type != "cuda":
        raise ArgumentError(f"{path} must be on a CUDA device, got a tensor on {tensor.device}")
    devices.append(tensor.device)
    span = sum((length - 1) * stride for length, stride in zip(tensor.shape, tensor.stride(), strict=True))
    if tensor.numel() and (span + 1) * tensor.element_size() >= 2**32:
        raise ArgumentError(f"{path} spans more than the 4 GiB that Slang's 32-bit offsets reach on CUDA: split it")
    broadcast = any(stride == 0 and length > 1 for length, stride in zip(tensor.shape, tensor.stride(), strict=True))
    if broadcast or (tensor.numel() and 0 in tensor.stride()):
        tensor = tensor.clone(memory_format=torch.contiguous_format)
    return tensor


def load_cuda_module(request: BuildRequest) -> CudaModule:
    """Build `request` with slangtorch, in a folder of its own in the cache."""
    if request.float64:
        raise ValueError("load_module: precision='float64' runs on the CPU only: give device='cpu', or precision='float32'")
    output = compile_slang(request.path, request.defines, request.include_paths)
    key = request.digest("cuda", torch.__version__, str(torch.version.cuda), output.cuda_text)
    compiled = build_with_slangtorch(request, output, key)
    families = read_signatures(output.cuda_text, output.binding_text, float64=False)
    return CudaModule(key, families, compiled)


def build_with_slangtorch(request: BuildRequest, output: SlangOutput, key: str) -> Any:
    slangtorch = _import_slangtorch()
    folder = cache_folder() / "slangtorch" / key
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        # slangtorch keeps its build beside the shader, so the shader goes to where builds may be kept. Its name tells
        # modules apart inside the process; `#line` leads messages back to the file that the user edits.
        name = f"{Path(request.path).stem}_{key}"
        shader = folder / f"{name}.slang"
        aside = shader.with_suffix(".tmp")
        aside.write_text(f'#line 1 "{request.path}"\n' + Path(request.path).read_text())
        os.replace(aside, shader)
        for stale in folder.rglob("lock"):  # only a killed build leaves one: we hold the lock that keeps others out
            stale.unlink()
        try:
            return slangtorch.loadModule(
                str(shader),
                defines=dict(request.defines),
                includePaths=[str(Path(request.path).parent), *request.include_paths],
                cudaFastMath=request.fast_math,
                extraCudaFlags=[],
                extraSlangFlags=[],
            )
        except Exception as error:
            text = str(error)
            diagnostics = parse_slangc_output(text) or parse_host_compiler_output(text)
            raise ShaderError(f"slangtorch could not build {request.path}", diagnostics, text) from error


def _import_slangtorch() -> ModuleType:
    if shutil.which("ninja") is None:
        raise ShaderError("the CUDA engine needs ninja: pip install 'slangrast[cuda]'")
    if shutil.which("nvcc") is None and "CUDA_HOME" not in os.environ:
        raise ShaderError("the CUDA engine needs nvcc: install the CUDA toolkit, or set CUDA_HOME to where it is")
    return importlib.import_module("slangtorch")
