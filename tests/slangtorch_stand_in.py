"""A stand-in for slangtorch, for machines without CUDA: it keeps what the engine asks for, and builds nothing."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from slangrast.runtime import cuda_engine


@dataclass
class StandIn:
    """What the engine asked of slangtorch, and what reached the compiled functions."""

    builds: list[dict[str, Any]] = field(default_factory=list)
    launches: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)
    devices: list[torch.device] = field(default_factory=list)  # made current, one for each launch
    error: str = ""  # what the next build ends with
    extensions: dict[Path, Any] = field(default_factory=dict)

    def load_module(self, file: str, **options: Any) -> None:
        shader = Path(file)
        internals = sys.modules["slangtorch"].slangtorch
        seen = {"shader": shader, "text": shader.read_text(), "path": os.environ["PATH"]}
        seen.update(dependencies=internals.parseDepfile("x"), prints=internals.print)
        self.builds.append({**options, **seen, "flags": list(options["extraCudaFlags"])})
        for name in ("extraCudaFlags", "extraSlangFlags"):  # as slangtorch does to its caller's lists
            options[name].append("--left-by-the-build-before")
        if self.error:
            raise RuntimeError(self.error)
        folder = shader.parent / ".slangtorch_cache" / shader.stem
        folder.mkdir(parents=True)
        (folder / f"_slangtorch_{shader.stem}_{len(self.builds)}.so").write_text(str(len(self.builds)))

    def import_extension(self, file: Path) -> Any:
        return self.extensions.setdefault(file, _Extension(self))

    @contextlib.contextmanager
    def device(self, device: torch.device) -> Iterator[None]:
        self.devices.append(device)
        yield


class _Extension:
    def __init__(self, stand_in: StandIn) -> None:
        self._stand_in = stand_in

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: self._stand_in.launches.append((name, arguments))


def parse_depfile(depfile: str) -> list[str]:
    return ["parsed"]


def install(monkeypatch: pytest.MonkeyPatch, folder: Path) -> StandIn:
    """Let the engine find a stand-in, a CUDA build of torch, nvcc and ninja, and an empty cache in `folder`."""
    stand_in = StandIn()
    fake = types.ModuleType("slangtorch")
    fake.__spec__ = importlib.util.find_spec("slangtorch")  # beside which slangc is found
    fake.loadModule = stand_in.load_module
    fake.slangtorch = types.SimpleNamespace(parseDepfile=parse_depfile)
    monkeypatch.setitem(sys.modules, "slangtorch", fake)
    monkeypatch.setattr(cuda_engine, "_import_extension", stand_in.import_extension)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)  # fake tensors cannot be compared
    monkeypatch.setattr(torch.cuda, "device", stand_in.device)
    monkeypatch.setenv("SLANGRAST_CACHE", str(folder / "cache"))
    programs(folder / "bin", "nvcc", "ninja")
    monkeypatch.setenv("PATH", str(folder / "bin"))
    return stand_in


def programs(folder: Path, *names: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)


def write_shader(file: Path, declaration: str, body: str, before: str = "", differentiable: bool = True) -> Path:
    marks = "[AutoPyBindCUDA]\n[CUDAKernel]\n" + "[Differentiable]\n" * differentiable
    file.write_text(f"{before}{marks}{declaration}\n{{\n    {body}\n}}\n")
    return file
