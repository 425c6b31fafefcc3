"""A kernel of one line, compiled and run with its gradient on each engine."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from slangrast.runtime import Module, ShaderError, load_module
from slangrast.runtime.request import ENGINES as DEVICES

from .finding import ABSENT, ENGINES, OK, PROBLEM, Finding

CANARIES = Path(__file__).parent / "canaries"
REPORT = "slangrast doctor --json   # and send what it prints with a bug report"
_TOLERANCE = {"float32": 1e-5, "float64": 1e-12}
_WARP = 32


def try_engine(engine: str, precision: str) -> list[Finding]:
    """Run the kernel, and compare it and its gradient with what torch makes of the same line."""
    name = f"{engine} {precision}" if engine == "cpu" else engine
    if why := _why_not(engine):
        return [Finding(ENGINES, name, ABSENT, f"not for this machine: {why}")]
    began = time.perf_counter()
    try:
        module = load_module(CANARIES / "one_line.slang", engine=engine, precision=precision)
        error = _largest_error(module, DEVICES[engine], getattr(torch, precision))
        lanes = _lanes(module, DEVICES[engine])
    except (ShaderError, ImportError, OSError, RuntimeError, ValueError, TypeError) as problem:
        text = problem.summary if isinstance(problem, ShaderError) else str(problem)
        return [Finding(ENGINES, name, PROBLEM, f"does not work: {text}", REPORT)]
    if lanes != module.warp_size:
        text = f"gives wrong numbers: a warp of {lanes} lanes, not {module.warp_size}"
        return [Finding(ENGINES, name, PROBLEM, text, REPORT)]
    if not error < _TOLERANCE[precision]:
        return [Finding(ENGINES, name, PROBLEM, f"gives wrong numbers: off by {error:.0e}", REPORT)]
    return [Finding(ENGINES, name, OK, f"works; off by {error:.0e}; ready in {time.perf_counter() - began:.1f} s")]


def _why_not(engine: str) -> str:
    if DEVICES[engine] == "cpu" or torch.cuda.is_available():
        return ""
    return "torch is built without CUDA" if torch.version.cuda is None else "torch sees no GPU"


def _largest_error(module: Module, device: str, dtype: torch.dtype) -> float:
    """Of the values and gradients of `one_line`, against torch."""
    x = torch.linspace(-1.0, 2.0, 100, dtype=dtype, device=device)
    grad_out = torch.linspace(1.0, 3.0, 100, dtype=dtype, device=device)
    out, grad_x = torch.full_like(x, torch.nan), torch.zeros_like(x)
    module.launch(module.one_line(x=x, out_y=out), over=(len(x),))
    module.launch(module.one_line.bwd(x=(x, grad_x), out_y=(torch.empty_like(x), grad_out)), over=(len(x),))
    expected = x.double() * torch.exp(-x.double())
    expected_grad = grad_out.double() * (1 - x.double()) * torch.exp(-x.double())
    return float(torch.stack([out - expected, grad_x - expected_grad]).abs().max())


def _lanes(module: Module, device: str) -> int:
    """How many lanes a warp has: one on the engine 'cpu'."""
    lanes = torch.zeros(_WARP, dtype=torch.int32, device=device)
    module.count_lanes(out_lanes=lanes).launchRaw(blockSize=(_WARP, 1, 1), gridSize=(1, 1, 1))
    return int(lanes[0])


TRIALS: dict[str, Callable[[], list[Finding]]] = {
    "cpu float32": partial(try_engine, "cpu", "float32"),
    "cpu float64": partial(try_engine, "cpu", "float64"),
    "simt": partial(try_engine, "simt", "float32"),
    "cuda": partial(try_engine, "cuda", "float32"),
    "nvrtc": partial(try_engine, "nvrtc", "float32"),
}
