"""A stand-in for the CUDA driver, for machines without a GPU: it runs the CPU's build of a kernel, with the arguments
that the driver would have copied to the GPU, on tensors of the CPU. NVRTC takes no part, and need not be there.
"""

from __future__ import annotations

import ctypes
import dataclasses
import pickle
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from slangrast import Module
from slangrast.runtime import nvrtc_engine
from slangrast.runtime.cpu_engine import load_cpu_module
from slangrast.runtime.layout import PackContext
from slangrast.runtime.packing import CPU
from slangrast.runtime.request import BuildRequest

ARCHITECTURE = (0, 0)  # of no GPU: what is kept in the cache for it can never reach one
STREAM = 0x5EED


class Result(IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_NO_BINARY_FOR_GPU = 209
    CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES = 701


@dataclass
class StandIn:
    """What the engine asked of the driver. `fails` names a function that shall fail, and how."""

    launches: list[tuple[str, tuple[int, ...], tuple[int, ...], int]] = field(default_factory=list)
    contexts: list[int] = field(default_factory=list)  # entered and not left
    entered: list[int] = field(default_factory=list)
    loads: int = 0
    compiles: list[list[str]] = field(default_factory=list)  # the options of each run of NVRTC
    fails: dict[str, Result] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cu"):
            raise AttributeError(name)

        def call(*arguments: Any) -> tuple[Any, ...]:
            if name in self.fails:
                return (self.fails[name],) * 2
            return Result.CUDA_SUCCESS, getattr(self, f"_{name}")(*arguments)

        return call

    def _cuInit(self, flags: int) -> None:
        assert flags == 0

    def _cuDeviceGet(self, ordinal: int) -> int:
        return ordinal

    def _cuDevicePrimaryCtxRetain(self, device: int) -> int:
        return device

    def _cuCtxPushCurrent(self, context: int) -> None:
        self.contexts.append(context)
        self.entered.append(context)

    def _cuCtxPopCurrent(self) -> int:
        return self.contexts.pop()

    def _cuModuleLoadData(self, cubin: bytes) -> Any:
        assert self.contexts, "a module is loaded into the current context, and there is none"
        self.loads += 1
        request, _ = pickle.loads(cubin)
        return load_cpu_module(request)

    def _cuModuleGetFunction(self, module: Any, symbol: bytes) -> Any:
        name = symbol.decode().removeprefix("__kernel__")
        entries = [entry for family in module.families.values() for entry in family.entries()]
        return module, next(entry for entry in entries if entry.name == name)

    def _cuLaunchKernel(self, function: Any, *arguments: int) -> None:
        module, entry = function
        *sizes, shared, stream, parameters, extra = arguments
        assert self.contexts and (shared, extra) == (0, 0)
        grid, block = tuple(sizes[:3]), tuple(sizes[3:])
        addresses = (ctypes.c_void_p * len(entry.arguments)).from_address(parameters)
        buffer = bytearray(entry.size)
        for argument, address in zip(entry.arguments, addresses, strict=True):
            size = argument.type.size
            buffer[argument.offset : argument.offset + size] = ctypes.string_at(address, size)
        self.launches.append((entry.name, grid, block, stream))
        module.launch(entry, PackContext(buffer, torch.device("cpu"), [], True), block, grid)


def install(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """Let the engine find a GPU, NVRTC and a driver. The CPU's tensors then count as the GPU's."""
    stand_in = StandIn()
    build = nvrtc_engine._build

    def build_without_nvrtc(request: BuildRequest, architectures: list[str], folder: Path) -> Any:
        def compile_(text: str, options: list[str], path: str) -> bytes:
            stand_in.compiles.append(options)
            return pickle.dumps((dataclasses.replace(request, quick=False, attachment=None), text))

        monkeypatch.setattr(nvrtc_engine, "_compile", compile_)
        return build(request, architectures, folder)

    monkeypatch.setattr(nvrtc_engine, "_build", build_without_nvrtc)
    monkeypatch.setattr(nvrtc_engine, "_nvrtc_version", lambda: (13, 0))
    monkeypatch.setattr(nvrtc_engine, "_cuda_headers", lambda: "/headers")
    monkeypatch.setattr(nvrtc_engine, "_bindings", {"driver": stand_in}.__getitem__)
    monkeypatch.setattr(nvrtc_engine, "refuse_on_host", lambda tensor, path: None)
    monkeypatch.setattr(nvrtc_engine, "DEVICE_TYPE", CPU)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: ARCHITECTURE)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=STREAM))
    for kept in (nvrtc_engine._loaded, nvrtc_engine._retained_context):
        kept.cache_clear()
    nvrtc_engine._LOADED.clear()
    return stand_in


def serving_the_cpu(module: Module) -> Module:
    """A module of the engine `nvrtc`, as it is for tensors of the CPU, which the stand-in takes."""
    return Module(module._request, "cpu", "nvrtc")
