"""The CUDA engine: slangtorch builds the module with nvcc. The only file that imports slangtorch.

What slangtorch leaves to its caller is handled here:

- it keeps its build beside the shader, finds changes by the clock, waits for ever on the lock of a build that was
  killed and compiles again what it has compiled: it builds in a fresh folder, and the cache keeps what came of it;
- it turns fast math on and adds to the flag list it is given: fast math is off unless asked for, the list a fresh one;
- its Python wrappers nest the gradient of the standard DiffTensorView once too often, and make up a gradient of one
  element on whatever device is current: the compiled functions are called without them, on the tensors' device, with
  gradients of the right size;
- the compiled functions refuse expanded tensors: these are copied.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import re
import shutil
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from .cache import files_of, find_or_build
from .errors import Diagnostic, MissingProgramError, ShaderError, parse_host_compiler_output, parse_nvcc_output
from .kept_tensors import keep_tensors
from .layout import ArgumentError, ArrayType, DiffTensorType, PackContext, ScalarType, StructType, TensorType
from .packing import CUDA, Packer, has_compiler
from .request import BuildRequest
from .signature import KernelFamily, KernelSignature, read_signatures
from .slang_compiler import compile_slang

DEVICE_TYPE = CUDA
_NEVER_ZERO_IN_BYTES = 2**29  # a smaller stride is below 2**32 bytes, in which the compiled function counts

_BUILDING = threading.Lock()  # slangtorch, PATH and the list of warnings belong to the whole process


class CudaModule:
    """One build of a module by slangtorch: its kernels' signatures, and the Python extension that launches them."""

    device_type = "cuda"

    def __init__(
        self, key: str, files: tuple[str, ...], families: dict[str, KernelFamily], binding: ModuleType
    ) -> None:
        self.key = key
        self.files = files
        self.families = families
        self.binding = binding
        self._writes_to_none: set[tuple[str, str]] = set()  # kernels and arguments that were copied, and were looked at
        self._packers: dict[tuple[str, bool], Packer | None] = {}

    def pack(self, entry: KernelSignature, values: list[Any], *, reads_gradients: bool) -> CudaArguments:
        packed = CudaArguments(reads_gradients)
        if has_compiler() and self._fit(entry, values, packed, reads_gradients):
            for argument, value in zip(entry.arguments, values, strict=True):
                packed.values.append(packed.pass_on(argument.type, value, argument.name))
            return packed
        for argument, value in zip(entry.arguments, values, strict=True):
            packed.values.append(packed.marshal(argument.type, value, argument.name))
        return packed

    def _fit(self, entry: KernelSignature, values: list[Any], packed: CudaArguments, reads_gradients: bool) -> bool:
        """Whether these are arguments of the plainest form, and right. Compiled code tells it in a fraction of the time
        that checks in Python take, by packing them as for a launch without slangtorch."""
        key = entry.name, reads_gradients
        if key not in self._packers:
            takes_int8 = any(getattr(argument.type, "dtype", None) == torch.int8 for argument in entry.arguments)
            self._packers[key] = None if takes_int8 else Packer(entry.arguments, reads_gradients, DEVICE_TYPE)
        packer = self._packers[key]
        context = PackContext(bytearray(max(entry.size, 1)), None, [], reads_gradients)
        if packer is None or not packer.pack(values, context):
            return False
        packed.device = context.keep_alive[0].device if context.keep_alive else None
        return True

    def launch(
        self, entry: KernelSignature, packed: CudaArguments, block: tuple[int, ...], grid: tuple[int, ...]
    ) -> None:
        # Without tensors, the current device; the binding takes the stream that is current on it.
        with torch.cuda.device(packed.device) if packed.device else contextlib.nullcontext():
            getattr(self.binding, entry.name)(block, grid, *packed.values)
            packed.refuse_lost_writes(entry.name, self._writes_to_none)


class CudaArguments:
    """The arguments of a launch in the form that the compiled function takes: nested tuples, tensors and numbers."""

    def __init__(self, reads_gradients: bool) -> None:
        self.values: list[Any] = []
        self.device: torch.device | None = None
        self._reads_gradients = reads_gradients
        self._copies: list[tuple[str, torch.Tensor, torch.Tensor]] = []

    def marshal(self, type_: Any, value: Any, path: str) -> Any:
        """`value` for an argument of type `type_`, checked as on the CPU."""
        if isinstance(type_, TensorType):
            return self._tensor(type_, value, path)
        if isinstance(type_, DiffTensorType):
            return self._diff_tensor(type_, value, path)
        if isinstance(type_, StructType):
            values = zip(type_.fields, type_.values(value, path), strict=True)
            return tuple(self.marshal(field.type, item, f"{path}.{field.name}") for field, item in values)
        if isinstance(type_, ArrayType):
            items = [
                self.marshal(type_.element, item, f"{path}[{index}]")
                for index, item in enumerate(type_.items(value, path))
            ]
            for length in type_.shape[:0:-1]:
                items = [tuple(items[first : first + length]) for first in range(0, len(items), length)]
            return tuple(items)
        return type_.convert(value, path)

    def pass_on(self, type_: Any, value: Any, path: str) -> Any:
        """As `marshal`, of what is known to be right."""
        if isinstance(type_, TensorType):
            return self._whole(value, path)
        if isinstance(type_, ScalarType):
            return float(value) if type_.code in "fd" else value
        if self._reads_gradients:
            tensor, gradient = value
            return self._whole(tensor, path), (self._whole(gradient, path, ".grad"),)
        return self._whole(value, path), (_untouched(type_.gradient.dtype, value.device),)

    def _diff_tensor(self, type_: DiffTensorType, value: Any, path: str) -> tuple[torch.Tensor, tuple[torch.Tensor]]:
        value, gradient = type_.check(value, path, self.device)
        tensor = self._tensor(type_.primal, value, path)
        if gradient is None:
            # A derivative kernel may add to it anywhere; the kernel itself never touches it.
            make, shape = (torch.zeros, value.shape) if self._reads_gradients else (torch.empty, (1,))
            return tensor, (make(shape, dtype=type_.gradient.dtype, device=tensor.device),)
        return tensor, (self._tensor(type_.gradient, gradient, f"{path}.grad"),)

    def _tensor(self, type_: TensorType, value: Any, path: str) -> torch.Tensor:
        given = type_.check(value, path, self.device)
        refuse_on_host(given, path)
        if given.dtype == torch.int8:
            raise ArgumentError(f"{path} is int8, which slangtorch cannot pass to a GPU: use int16 or int32")
        self.device = given.device
        tensor = self._whole(given, path)
        refuse_beyond_reach(tensor, path)
        return tensor

    def _whole(self, given: torch.Tensor, path: str, part: str = "") -> torch.Tensor:
        """`given`, or a copy of it where several of its elements are one number."""
        strides = given.stride()
        if (all(strides) and max(strides, default=0) < _NEVER_ZERO_IN_BYTES) or not given.numel():
            return given
        if all(stride * given.element_size() % 2**32 for stride in strides):
            return given
        # The compiled function refuses strides of 0. Where a length is 1, any other will do.
        strides = tuple(1 if length == 1 else stride for length, stride in zip(given.shape, strides, strict=True))
        if 0 not in strides:
            return given.as_strided(given.shape, strides)
        whole = given.clone(memory_format=torch.contiguous_format)
        self._copies.append((path + part, given, whole))
        return whole

    def refuse_lost_writes(self, kernel: str, known: set[tuple[str, str]]) -> None:
        """Raise where the kernel wrote to the copy of an expanded tensor: that is lost, and nobody would know.

        To look is to wait for the device. So what is found to be read only goes to `known`, and is not looked at again.
        """
        copies = [one for one in self._copies if (kernel, one[0]) not in known]
        if not copies or torch.cuda.is_current_stream_capturing():
            return  # reading the result would break the capture of a graph
        for path, given, copy in copies:
            bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[copy.element_size()]
            if not torch.equal(copy.view(bits), given.view(bits)):  # bits, because NaN is not equal to itself
                raise ValueError(
                    f"launchRaw: {path} is an expanded tensor, of which several elements share memory, and the kernel "
                    "writes to it: give it memory of its own with .contiguous() first"
                )
            known.add((kernel, path))


@keep_tensors(256)
def _untouched(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Poses as the gradient of whatever a kernel that is no derivative takes: it never touches it."""
    return torch.zeros(1, dtype=dtype, device=device)


def refuse_on_host(tensor: torch.Tensor, path: str) -> None:
    if tensor.device.type != "cuda":
        raise ArgumentError(f"{path} must be on a CUDA device, got a tensor on {tensor.device}")


def refuse_beyond_reach(tensor: torch.Tensor, path: str) -> None:
    span = sum((length - 1) * stride for length, stride in zip(tensor.shape, tensor.stride(), strict=True))
    if tensor.numel() and (span + 1) * tensor.element_size() > 2**32:
        raise ArgumentError(f"{path} spans more than the 4 GiB that Slang's 32-bit offsets reach on CUDA: split it")


def load_cuda_module(request: BuildRequest) -> CudaModule:
    """The module of `request`, from the cache or built by slangtorch."""
    if request.float64:
        raise ValueError(
            "load_module: precision='float64' runs on the CPU only: give device='cpu', or precision='float32'"
        )
    if torch.version.cuda is None:
        raise ShaderError(
            f"the CUDA engine needs a torch built for CUDA, and {torch.__version__} is not: install one, or load the "
            "shader with device='cpu'"
        )
    made_for = (torch.__version__, torch.version.cuda, sys.implementation.cache_tag, _architectures())
    key = request.digest("cuda", *map(str, made_for))
    entry = find_or_build(key, request.searched_folders(), lambda folder: _build(request, folder))
    families = read_signatures((entry / "program.cu").read_text(), (entry / "binding.txt").read_text(), float64=False)
    return CudaModule(entry.name, files_of(entry), families, _import_extension(next(entry.glob("*.so"))))


def _architectures() -> str:
    """What torch will have nvcc compile for."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    return os.environ.get("TORCH_CUDA_ARCH_LIST") or str(sorted({torch.cuda.get_device_capability(d) for d in devices}))


def _build(request: BuildRequest, folder: Path) -> Iterable[str]:
    with _BUILDING, _programs_on_path():
        pass  # refuse before anything slow: where a program is missing, another engine may stand in
    # slangtorch prints slangc's diagnostics where nobody can catch them. These come with an exception.
    output = compile_slang(request.path, request.defines, request.include_paths)
    families = read_signatures(output.cuda_text, output.binding_text, float64=False)
    if not families:
        raise ShaderError(f"{request.path} has no kernel: mark one with [AutoPyBindCUDA] and [CUDAKernel]")
    _refuse_what_slangtorch_cannot_pass(request.path, families)
    # It keeps its build beside the shader. `#line` leads messages from the copy back to the file that the user edits.
    shader = folder / "slangtorch" / Path(request.path).name
    shader.parent.mkdir()
    shader.write_bytes(f'#line 1 "{request.path}"\n'.encode() + Path(request.path).read_bytes())
    # slangtorch turns on half in slangc's prelude, but not this.
    flags = ["-DSLANG_CUDA_ENABLE_BF16=1"] if "__nv_bfloat16" in output.cuda_text else []
    extension = _build_with_slangtorch(request, shader, flags)
    shutil.copy(extension, folder)
    shutil.rmtree(shader.parent)
    (folder / "program.cu").write_text(output.cuda_text)
    (folder / "binding.txt").write_text(output.binding_text)
    return output.dependencies


def _refuse_what_slangtorch_cannot_pass(path: str, families: dict[str, KernelFamily]) -> None:
    """For these, the binding and the kernel that slangc writes do not fit together: say so before a linker does."""

    def refuse(what: str, instead: str) -> None:
        raise ShaderError(f"{path}: {what}, which slangtorch cannot pass to a GPU: use {instead}")

    def visit(type_: Any, where: str) -> None:
        if isinstance(type_, ScalarType) and type_.code == "e":
            refuse(f"{where} is a half", "float")
        if isinstance(type_, ArrayType):
            if len(set(type_.shape)) == 2:
                refuse(f"{where} is a matrix of {type_.shape[0]} x {type_.shape[1]}", "an array of vectors")
            visit(type_.element, where)
        for field in getattr(type_, "fields", ()):
            visit(field.type, f"{where}.{field.name}")

    for name, family in families.items():
        for argument in family.primal.arguments:
            where = f"argument {argument.name} of kernel {name}"
            visit(argument.type, where)
            # The two texts name these types differently, except inside a struct.
            if re.search(r"\bchar\b", argument.c_type):
                refuse(f"{where} is an int8_t", "int16_t")
            if re.search(r"\bulonglong\b", argument.c_type):
                refuse(f"{where} is a uint64_t", "int64_t")


def _build_with_slangtorch(request: BuildRequest, shader: Path, flags: list[str]) -> Path:
    """The Python extension that slangtorch made of `shader`, in a folder of its own below the shader's."""
    with _BUILDING, _programs_on_path(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's advice about compilers is for authors of extensions
        try:
            slangtorch = importlib.import_module("slangtorch")
        except ImportError as error:
            raise ShaderError(f"slangtorch does not load ({error}): pip install 'slangrast[cuda]'") from error
        try:
            with _tamed(slangtorch.slangtorch):
                slangtorch.loadModule(
                    str(shader),
                    defines=dict(request.defines),
                    includePaths=[str(Path(request.path).parent), *request.include_paths],
                    cudaFastMath=request.fast_math,
                    extraCudaFlags=flags,
                    extraSlangFlags=[],
                )
        except Exception as error:
            text = str(error)
            raise ShaderError(f"slangtorch could not build {request.path}", _diagnostics(text), text) from error
    built = sorted(shader.parent.rglob("*.so"))
    if len(built) != 1:
        raise ShaderError(f"slangtorch built {request.path}, but left {len(built)} Python extensions instead of one")
    return built[0]


@contextlib.contextmanager
def _tamed(internals: Any) -> Iterator[None]:
    """Let slangtorch not read slangc's list of files, where it trips over spaces: the cache has its own. Nor print
    slangc's warnings, which it would do twice for each build."""
    reader = internals.parseDepfile
    internals.parseDepfile = lambda depfile: []
    internals.print = lambda *values, **options: None
    try:
        yield
    finally:
        internals.parseDepfile = reader
        del internals.print


@contextlib.contextmanager
def _programs_on_path() -> Iterator[None]:
    """Let nvcc and ninja be found; ninja also where pip put it, beside a Python whose environment is not active."""
    before = os.environ.get("PATH", os.defpath)
    if shutil.which("ninja") is None:
        os.environ["PATH"] = os.pathsep.join([before, str(Path(sys.executable).parent)])
    try:
        if shutil.which("ninja") is None:
            raise MissingProgramError("the CUDA engine needs ninja: pip install 'slangrast[cuda]'")
        if shutil.which("nvcc") is None and "CUDA_HOME" not in os.environ:
            raise MissingProgramError(
                "the CUDA engine needs nvcc: install the CUDA toolkit, or set CUDA_HOME to where it is, or do without: "
                "pip install 'slangrast[nvrtc]'"
            )
        yield
    finally:
        os.environ["PATH"] = before


def _import_extension(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None, f"{file} is no Python extension"
    extension = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(extension)
    return extension


def _diagnostics(output: str) -> list[Diagnostic]:
    """The errors of nvcc and of the host compiler, each once."""
    return list(dict.fromkeys(parse_nvcc_output(output) + parse_host_compiler_output(output)))
