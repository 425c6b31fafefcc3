"""The CPU engine: slangc's CUDA text, a small prelude of our own, a C++ compiler, and a loop over the grid."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import sys
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from .cache import digest, files_of, find_or_build
from .checked_launch import CheckedLaunch
from .cpu_threads import kernel_threads, torch_team
from .cuda_text import explain_compile_error, refuse_what_needs_a_gpu, widen_literals
from .errors import ShaderError
from .host_compiler import HOST_FOLDER, HostCompiler, host_compiler, host_sources_digest
from .layout import PackContext, layout_checks
from .packing import Packer
from .request import BuildRequest
from .sanitizers import require_runtime, sanitizer_of_environment
from .shader_sites import KernelPlace, kernel_places, mark_sites
from .signature import KernelFamily, KernelSignature, read_signatures
from .slang_compiler import compile_slang

_CPU = torch.device("cpu")
_PlainLaunch = ctypes.c_uint32 * 7  # SlangrastLaunch: grid, block, threads


class CpuModule:
    """One build of a module for the CPU: its kernels' signatures, and their entry points in a shared library."""

    device_type = "cpu"

    def __init__(
        self,
        key: str,
        files: tuple[str, ...],
        families: dict[str, KernelFamily],
        library: ctypes.CDLL,
        program: str,
        request: BuildRequest,
    ) -> None:
        self.key = key
        self.files = files
        self.families = families
        self._library = library
        self._prints = "printf(" in program
        self._parallel_for = _thread_pool(request.sanitizer)
        self._debug = request.debug
        self._packers: dict[tuple[str, bool], Packer] = {}
        self._functions: dict[str, Any] = {}
        self._places = kernel_places(program) if request.is_checked else None

    def breakpoints(self) -> dict[str, KernelPlace] | None:
        """Where a debugger can stop in each kernel; None where the build tells a debugger nothing."""
        places = self._places if self._debug else None
        return places and {name: places[family.primal.name] for name, family in self.families.items()}

    def pack(self, entry: KernelSignature, values: list[Any], *, reads_gradients: bool) -> PackContext:
        context = PackContext(bytearray(max(entry.size, 1)), _CPU, [], reads_gradients)
        if self._places is None and self._packer(entry, reads_gradients).pack(values, context):
            return context
        for argument, value in zip(entry.arguments, values, strict=True):
            argument.type.pack(value, argument.offset, argument.name, context)
        return context

    def _packer(self, entry: KernelSignature, reads_gradients: bool) -> Packer:
        packer = self._packers.get((entry.name, reads_gradients))
        if packer is None:
            packer = self._packers[entry.name, reads_gradients] = Packer(entry.arguments, reads_gradients)
        return packer

    def launch(
        self, entry: KernelSignature, packed: PackContext, block: tuple[int, ...], grid: tuple[int, ...]
    ) -> None:
        if self._places is not None:
            self._launch_checked(entry, packed, block, grid, self._places[entry.name])
        else:
            self._call(entry, packed, _PlainLaunch(*grid, *block, kernel_threads()))

    def _launch_checked(
        self,
        entry: KernelSignature,
        packed: PackContext,
        block: tuple[int, ...],
        grid: tuple[int, ...],
        place: KernelPlace,
    ) -> None:
        kernel, family = next((name, family) for name, family in self.families.items() if entry in family.entries())
        kind = "" if entry is family.primal else ".bwd" if entry is family.backward_derivative else ".fwd"
        launch = CheckedLaunch(kernel, kind, entry, packed, place, checks_tensors=self._debug)
        self._call(entry, packed, ctypes.byref(launch.c_struct(block, grid)))
        launch.raise_on_fault()

    def _call(self, entry: KernelSignature, packed: PackContext, launch: Any) -> None:
        if self._prints:  # in order with what Python prints before and after
            sys.stdout.flush()
        function = self._functions.get(entry.name)
        if function is None:
            function = self._functions[entry.name] = getattr(self._library, f"slangrast_launch_{entry.name}")
        function(launch, self._parallel_for, ctypes.byref(ctypes.c_char.from_buffer(packed.buffer)))
        if self._prints:
            ctypes.CDLL(None).fflush(None)


_LOADED: weakref.WeakValueDictionary[str, CpuModule] = weakref.WeakValueDictionary()  # by key: one for all who ask


def load_cpu_module(request: BuildRequest) -> CpuModule:
    """The module of `request`, from the cache or built."""
    # Nothing is gained by haste: -O1 takes a tenth off a second's compilation, and adds a second to the first frame.
    request = dataclasses.replace(request, quick=False, sanitizer=request.sanitizer or sanitizer_of_environment())
    compiler = host_compiler()
    if request.sanitizer and request.simt:
        raise ShaderError(
            f"SLANGRAST_SANITIZE={request.sanitizer}: sanitizers cannot follow the stacks of engine='simt'; run them "
            "with engine='cpu'"
        )
    if request.sanitizer:
        require_runtime(request.sanitizer, compiler.command)
    key = _key(request, compiler)
    return _open(request, find_or_build(key, request.searched_folders(), lambda to: _build(request, compiler, to)))


def _key(request: BuildRequest, compiler: HostCompiler) -> str:
    return request.digest("cpu", compiler.identity, " ".join(_flags(request, compiler)), host_sources_digest())


def _flags(request: BuildRequest, compiler: HostCompiler) -> tuple[str, ...]:
    return compiler.flags(
        fast_math=request.fast_math, debug=request.debug, simt=request.simt, sanitizer=request.sanitizer
    )


def _open(request: BuildRequest, entry: Path) -> CpuModule:
    if loaded := _LOADED.get(entry.name):
        return loaded
    program = (entry / "program.cu").read_text()
    families = read_signatures(program, (entry / "binding.txt").read_text(), float64=request.float64)
    library = ctypes.CDLL(str(entry / "module.so"))
    module = CpuModule(entry.name, files_of(entry), families, library, program, request)
    _LOADED[entry.name] = module
    return module


def _build(request: BuildRequest, compiler: HostCompiler, folder: Path) -> Iterable[str]:
    output = compile_slang(request.path, request.defines, request.include_paths)
    refuse_what_needs_a_gpu(output.cuda_text, simt=request.simt)
    families = read_signatures(output.cuda_text, output.binding_text, float64=request.float64)
    if not families:
        raise ShaderError(f"{request.path} has no kernel: mark one with [AutoPyBindCUDA] and [CUDAKernel]")
    program = output.cuda_text
    if request.float64:
        program = widen_literals(program, output.dependencies, request.defines.values())
    if request.is_checked:
        program = mark_sites(program, promises=request.debug)
    (folder / "program.cu").write_text(output.cuda_text)
    (folder / "binding.txt").write_text(output.binding_text)
    (folder / "host.cpp").write_text(_host_text(program, families, request))
    try:
        compiler.build(folder / "host.cpp", folder / "module.so", _flags(request, compiler), request.path)
    except ShaderError as error:
        explain_compile_error(error, output.dependencies)
        raise
    return output.dependencies


def _host_text(program: str, families: dict[str, KernelFamily], request: BuildRequest) -> str:
    entries = [entry for family in families.values() for entry in family.entries()]
    parts = [
        f"#define SLANGRAST_FLOAT64 {int(request.float64)}",
        *["#define SLANGRAST_DEBUG 1"] * request.debug,
        *["#define SLANGRAST_SIMT 1"] * request.simt,
        '#include "prelude.h"',
        '#include "launch.h"',
        "#define float double" if request.float64 else "",
        program,
        '#line 1 "slangrast-entry-points"',
        *layout_checks((argument.c_type, argument.type) for entry in entries for argument in entry.arguments),
        *map(_entry_point, entries),
    ]
    return "\n".join(parts) + "\n"


def _entry_point(entry: KernelSignature) -> str:
    arguments = ", ".join(f"*({argument.c_type} const*)(a + {argument.offset})" for argument in entry.arguments)
    parameters = "const SlangrastLaunch* launch, SlangrastParallelFor parallel_for, const uint8_t* a"
    body = f"slangrast_run(launch, parallel_for, [a] {{ __kernel__{entry.name}({arguments}); }});"
    return f'extern "C" void slangrast_launch_{entry.name}({parameters})\n{{\n    {body}\n}}'


def _thread_pool(sanitizer: str = "") -> ctypes.c_void_p:
    """The address of `slangrast_parallel_for` in the pool's library, which all modules of the process share."""
    return _load_thread_pool(sanitizer)


@functools.cache
def _load_thread_pool(sanitizer: str) -> ctypes.c_void_p:
    compiler = host_compiler()
    flags = ("-std=c++17", "-O2", "-fPIC", "-shared", "-pthread", *compiler.sanitizer_flags(sanitizer))

    def build(folder: Path) -> list[str]:
        compiler.build(HOST_FOLDER / "threads.cpp", folder / "threads.so", flags, "the thread pool")
        return []

    key = digest("threads", compiler.identity, sanitizer, host_sources_digest())
    library = ctypes.CDLL(str(find_or_build(key, (), build) / "threads.so"))
    if not sanitizer:  # which could not see how OpenMP's threads wait for each other
        library.slangrast_join_team(torch_team())
    return ctypes.cast(library.slangrast_parallel_for, ctypes.c_void_p)
