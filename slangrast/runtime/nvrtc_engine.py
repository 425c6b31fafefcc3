"""The CUDA engine `nvrtc`: slangc's CUDA text through NVRTC, and a launch by the driver.

No nvcc, ninja, C++ compiler or header of torch takes part: a quick build takes a second or two, where slangtorch takes
half a minute. A kernel gets the bytes that the CPU engine packs, and so can be given all that the CPU engine can: also
half numbers, any matrix, int8 tensors, and expanded tensors without a copy, several elements of which are one number.

It runs in the primary context of the tensors' device, which is torch's, on the stream that is torch's current one.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import logging
import os
import re
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from .cache import files_of, find, find_or_build
from .cuda_engine import CudaModule, load_cuda_module, refuse_beyond_reach, refuse_on_host
from .errors import MissingProgramError, ShaderError, parse_nvcc_output
from .host_compiler import host_sources_digest
from .layout import PackContext, layout_checks
from .packing import CUDA, Packer, has_compiler
from .request import BuildRequest
from .signature import KernelFamily, KernelSignature, read_signatures
from .slang_compiler import SlangOutput, compile_slang

_LOG = logging.getLogger("slangrast")

DEVICE_TYPE = CUDA

# What the text must hold for a part of slangc's prelude to be needed, and the macro that turns the part on. Each
# includes a header of the CUDA toolkit, which not every machine has.
_PRELUDE_PARTS = {
    "__half": "SLANG_CUDA_ENABLE_HALF",
    "__nv_bfloat16": "SLANG_CUDA_ENABLE_BF16",
    "__nv_fp8": "SLANG_CUDA_ENABLE_FP8",
}
# The first version it was tried with: the rasterizer compiles in 1 s instead of 12 s, and still spills no registers.
_KNOWS_OFAST_COMPILE = (13, 0)
_KERNEL = re.compile(r"^(?=__global__ void __kernel__)", re.MULTILINE)


@dataclass
class GpuArguments(PackContext):
    """The bytes of a launch, on the device of its first tensor."""

    buffer: bytearray
    device: torch.device | None = None
    keep_alive: list[torch.Tensor] = field(default_factory=list)
    reads_gradients: bool = False

    def admit(self, tensor: torch.Tensor, path: str) -> None:
        refuse_on_host(tensor, path)
        refuse_beyond_reach(tensor, path)
        self.device = tensor.device
        super().admit(tensor, path)


class NvrtcModule:
    """One build of a module by NVRTC: its kernels' signatures, and a cubin for each kind of GPU of this machine."""

    device_type = "cuda"
    quick = False  # True: compiled with few optimisations, to be replaced soon

    def __init__(
        self, key: str, files: tuple[str, ...], families: dict[str, KernelFamily], cubins: dict[str, bytes]
    ) -> None:
        self.key = key
        self.files = files
        self.families = families
        self._cubins = cubins
        self._functions: dict[tuple[int, str], Any] = {}
        self._packers: dict[tuple[str, bool], Packer] = {}

    def pack(self, entry: KernelSignature, values: list[Any], *, reads_gradients: bool) -> GpuArguments:
        packed = GpuArguments(bytearray(max(entry.size, 1)), reads_gradients=reads_gradients)
        if has_compiler() and self._packer(entry, reads_gradients).pack(values, packed):
            packed.device = packed.keep_alive[0].device if packed.keep_alive else None
            return packed
        for argument, value in zip(entry.arguments, values, strict=True):
            argument.type.pack(value, argument.offset, argument.name, packed)
        return packed

    def _packer(self, entry: KernelSignature, reads_gradients: bool) -> Packer:
        packer = self._packers.get((entry.name, reads_gradients))
        if packer is None:
            packer = self._packers[entry.name, reads_gradients] = Packer(entry.arguments, reads_gradients, DEVICE_TYPE)
        return packer

    def launch(
        self, entry: KernelSignature, packed: GpuArguments, block: tuple[int, ...], grid: tuple[int, ...]
    ) -> None:
        device = torch.cuda.current_device() if packed.device is None else packed.device.index
        stream = torch.cuda.current_stream(device).cuda_stream
        start = ctypes.addressof(ctypes.c_char.from_buffer(packed.buffer))
        addresses = [start + argument.offset for argument in entry.arguments]
        parameters = (ctypes.c_void_p * len(addresses))(*addresses)
        with _primary_context(device):
            function = self._function(entry.name, device)
            what = f"launchRaw of {entry.name} with blockSize {block} and gridSize {grid}"
            _call(what, "cuLaunchKernel", function, *grid, *block, 0, stream, ctypes.addressof(parameters), 0)

    def _function(self, name: str, device: int) -> Any:
        """The kernel of that name, in the current context."""
        if (device, name) not in self._functions:
            module = _loaded(device, self._cubins[_architecture(device)])
            symbol = f"__kernel__{name}".encode()
            self._functions[device, name] = _call(f"finding kernel {name}", "cuModuleGetFunction", module, symbol)
        return self._functions[device, name]


_LOADED: weakref.WeakValueDictionary[str, NvrtcModule] = weakref.WeakValueDictionary()  # by key: one for all who ask


def load_nvrtc_module(request: BuildRequest, architectures: Sequence[str] | None = None) -> NvrtcModule:
    """The module of `request`, from the cache or built. Where there is an optimised build, a quick one is not made.

    `architectures` ("sm_90") are those of this machine's GPUs, unless named.
    """
    if request.float64:
        raise ValueError(
            "load_module: precision='float64' runs on the CPU only: give device='cpu', or precision='float32'"
        )
    architectures = architectures or _architectures()
    folders = request.searched_folders()
    optimised = replace(request, quick=False)
    if request.quick and (entry := find(_key(optimised, architectures), folders)):
        return _open(optimised, architectures, entry)
    entry = find_or_build(_key(request, architectures), folders, lambda folder: _build(request, architectures, folder))
    return _open(request, architectures, entry)


def _key(request: BuildRequest, architectures: Sequence[str]) -> str:
    return request.digest("nvrtc", *architectures, str(_nvrtc_version()), host_sources_digest())


def _open(request: BuildRequest, architectures: Sequence[str], entry: Path) -> NvrtcModule:
    if loaded := _LOADED.get(entry.name):
        return loaded
    families = read_signatures((entry / "program.cu").read_text(), (entry / "binding.txt").read_text(), float64=False)
    cubins = {architecture: (entry / f"{architecture}.cubin").read_bytes() for architecture in architectures}
    module = NvrtcModule(entry.name, files_of(entry), families, cubins)
    module.quick = request.quick
    _LOADED[entry.name] = module
    return module


def load_default_cuda_module(request: BuildRequest) -> CudaModule | NvrtcModule:
    """slangtorch's build of `request`. NVRTC's where nvcc or ninja is missing for one, which is said once; and where it
    is to be quick, since an optimised one will replace it. SLANGRAST_CUDA_ENGINE names the one to use everywhere."""
    if engine := os.environ.get("SLANGRAST_CUDA_ENGINE"):
        if engine not in _ENGINES:
            raise ValueError(f"SLANGRAST_CUDA_ENGINE must be one of {list(_ENGINES)}, got {engine!r}")
        return _ENGINES[engine](request)
    if request.quick:
        with contextlib.suppress(_NvrtcMissingError):
            return load_nvrtc_module(request)
    try:
        return load_cuda_module(request)
    except MissingProgramError as error:
        try:
            module = load_nvrtc_module(request)
        except _NvrtcMissingError:
            raise error from None
        _say_once(error.summary.partition(":")[0])
        return module


_ENGINES: dict[str, Callable[[BuildRequest], CudaModule | NvrtcModule]] = {
    "cuda": load_cuda_module, "nvrtc": load_nvrtc_module
}  # fmt: skip


@functools.cache
def _say_once(what_is_missing: str) -> None:
    _LOG.warning("slangrast: %s, which is not here: shaders are built by NVRTC (engine='nvrtc')", what_is_missing)


class _NvrtcMissingError(ShaderError):
    """This machine lacks what NVRTC needs, for this shader or for all."""


def _build(request: BuildRequest, architectures: Sequence[str], folder: Path) -> Iterable[str]:
    output = compile_slang(request.path, request.defines, request.include_paths)
    families = read_signatures(output.cuda_text, output.binding_text, float64=False)
    if not families:
        raise ShaderError(f"{request.path} has no kernel: mark one with [AutoPyBindCUDA] and [CUDAKernel]")
    text = _nvrtc_text(output, families)
    options = ["-w", *_prelude_options(output.cuda_text)]
    options += ["--use_fast_math"] * request.fast_math
    options += ["--Ofast-compile=min"] * (request.quick and _nvrtc_version() >= _KNOWS_OFAST_COMPILE)
    for architecture in architectures:
        cubin = _compile(text, [f"--gpu-architecture={architecture}", *options], request.path)
        (folder / f"{architecture}.cubin").write_bytes(cubin)
    (folder / "program.cu").write_text(output.cuda_text)
    (folder / "binding.txt").write_text(output.binding_text)
    return output.dependencies


def _nvrtc_text(output: SlangOutput, families: dict[str, KernelFamily]) -> str:
    entries = [entry for family in families.values() for entry in family.entries()]
    arguments = [(argument.c_type, argument.type) for entry in entries for argument in entry.arguments]
    return "\n".join(
        [
            output.prelude,
            _KERNEL.sub('extern "C" ', output.cuda_text),  # so that a kernel is found by its own name
            '#line 1 "slangrast-layout-checks"',
            *layout_checks(arguments),
            "",
        ]
    )


def _prelude_options(program: str) -> list[str]:
    needed = [macro for type_name, macro in _PRELUDE_PARTS.items() if type_name in program]
    return [f"-D{macro}=1" for macro in needed] + ([f"-I{_cuda_headers()}"] if needed else [])


def _cuda_headers() -> str:
    """The folder of cuda_fp16.h and its like: in NVIDIA's wheels, a Conda environment, CUDA_HOME or the system."""
    found = importlib.import_module("cuda.pathfinder").find_nvidia_header_directory("cudart")
    if found is None:
        raise _NvrtcMissingError(
            "a shader with half, bfloat16 or float8 needs the headers of the CUDA runtime: pip install "
            "nvidia-cuda-runtime, of the version that torch was built for, or set CUDA_HOME"
        )
    return found


def _compile(text: str, options: list[str], path: str) -> bytes:
    """The cubin that NVRTC makes of `text`; raise `ShaderError` in its words."""
    nvrtc = _bindings("nvrtc")

    def call(name: str, *arguments: Any) -> Any:
        result, *values = getattr(nvrtc, name)(*arguments)
        if int(result) != 0:
            raise ShaderError(f"NVRTC could not compile {path}: {name} failed with {result.name}")
        return values[0] if values else None

    program = call("nvrtcCreateProgram", text.encode(), f"{path} (CUDA text)".encode(), 0, [], [])
    try:
        (result,) = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
        if int(result) != 0:
            log = bytes(call("nvrtcGetProgramLogSize", program))
            call("nvrtcGetProgramLog", program, log)
            said = log.decode(errors="replace").rstrip("\0")
            raise ShaderError(f"NVRTC could not compile {path} ({result.name})", parse_nvcc_output(said), said)
        cubin = bytes(call("nvrtcGetCUBINSize", program))
        call("nvrtcGetCUBIN", program, cubin)
        return cubin
    finally:
        nvrtc.nvrtcDestroyProgram(program)


@functools.cache
def _nvrtc_version() -> tuple[int, int]:
    nvrtc = _bindings("nvrtc")
    try:
        _, major, minor = nvrtc.nvrtcVersion()
    except Exception as error:  # what it raises where there is no library depends on the version of cuda-bindings
        raise _NvrtcMissingError(
            f"NVRTC does not load ({error}): pip install nvidia-cuda-nvrtc, and cuda-bindings of the same major version"
        ) from error
    return major, minor


def _bindings(name: str) -> Any:
    module = f"cuda.bindings.{name}"
    try:
        return sys.modules.get(module) or importlib.import_module(module)  # each launch comes here several times
    except ImportError as error:
        raise _NvrtcMissingError(
            f"the engine 'nvrtc' needs cuda-bindings ({error}): pip install 'slangrast[nvrtc]'"
        ) from error


def _architectures() -> list[str]:
    if not torch.cuda.is_available():
        built = f"{torch.__version__} is built without CUDA" if torch.version.cuda is None else "torch sees none"
        raise _NvrtcMissingError(
            f"the engine 'nvrtc' needs a CUDA device, and {built}: load the shader with device='cpu'"
        )
    return sorted({_architecture(device) for device in range(torch.cuda.device_count())})


def _architecture(device: int) -> str:
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


@contextlib.contextmanager
def _primary_context(device: int) -> Iterator[None]:
    """Make torch's context of `device` the current one: a thread that is new, or was on another device, has not."""
    _call(f"entering device {device}", "cuCtxPushCurrent", _retained_context(device))
    try:
        yield
    finally:
        _call(f"leaving device {device}", "cuCtxPopCurrent")


@functools.cache
def _loaded(device: int, cubin: bytes) -> Any:
    """The module of the driver that holds a cubin's kernels. Never unloaded: one of them may still be running."""
    return _call(f"loading a shader to device {device}", "cuModuleLoadData", cubin)


@functools.cache
def _retained_context(device: int) -> Any:
    what = f"opening device {device}"
    _call(what, "cuInit", 0)
    return _call(what, "cuDevicePrimaryCtxRetain", _call(what, "cuDeviceGet", device))


_ADVICE = {
    "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES": "a block of this kernel needs more registers than there are: make it smaller",
    "CUDA_ERROR_ILLEGAL_ADDRESS": "this or an earlier kernel went past the end of a tensor: try it on the CPU",
    "CUDA_ERROR_NO_BINARY_FOR_GPU": "NVRTC is newer than the driver: install cuda-bindings of torch's CUDA version",
    "CUDA_ERROR_INVALID_IMAGE": "NVRTC is newer than the driver: install cuda-bindings of torch's CUDA version",
}


def _call(what: str, name: str, *arguments: Any) -> Any:
    """Call a function of the driver; raise `RuntimeError`, which says during what, where it fails."""
    result, *values = getattr(_bindings("driver"), name)(*arguments)
    if int(result) != 0:
        advice = f": {_ADVICE[result.name]}" if result.name in _ADVICE else ""
        raise RuntimeError(f"{what}: {name} failed with {result.name}{advice}")
    return values[0] if values else None
