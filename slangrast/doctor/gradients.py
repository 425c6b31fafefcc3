"""Whether what slangc differentiates is right: canaries for its known bugs, and the shipped formulas.

The judge is a central difference in float64. That a canary is affected is for authors of shaders to know: what ships is
written around these bugs, and tested.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import torch

import slangrast
from slangrast.runtime import Module, ShaderError, load_module

from .engines import CANARIES, REPORT
from .finding import AFFECTED, GRADIENTS, OK, PROBLEM, Finding

_ROWS, _COLUMNS = 4, 3
_STEP = 1e-6
_TOLERANCE = 1e-5  # of the largest gradient; differences alone reach 1e-9
_GOOD_SLANGC = "pip install --force-reinstall --no-deps slangtorch==1.3.22"


@dataclass(frozen=True)
class Canary:
    """A kernel whose derivative a bug of slangc breaks, or once broke, and what to write instead."""

    name: str
    file: str
    instead: str
    reported: str = ""


_UNROLL = "unroll it with [ForceUnroll], or write its reverse in a [BackwardDerivative] function"
_LOOPS = (
    Canary("loop that changes an index", "changing_index", _UNROLL, "slang 9267"),
    Canary("code after a loop", "after_a_loop", "leave the loop by its condition, not by return", "slang 6394"),
    Canary("loop in a loop", "nested_loops", _UNROLL, "slang 13000"),
    Canary("loop for a vector", "vector_of_a_loop", _UNROLL, "slangpy 1055"),
    Canary("loop that counts down", "counting_down", "let it count upwards from a constant"),
)
_SHARED = Canary(
    "imported function used twice",
    "shared_function",
    "in one function, call it with its derivative before anything calls it without",
)
_LENGTH = Canary("length() near zero", "length_near_zero", "take the root of dot(v, v), and keep away from 0 yourself")
_STORING = Canary("reverse of a kernel", "storing_kernel", "give .bwd outputs that may be overwritten")
_WITH_GRADIENTS = (*_LOOPS, _SHARED, _LENGTH)


def compile_canaries() -> list[Finding]:
    """Fill the cache, on all cores. What does not compile is told by the canary itself."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(_load, [canary.file for canary in (*_WITH_GRADIENTS, _STORING)]))
    return []


def try_gradient(canary: Canary) -> list[Finding]:
    module = _load(canary.file)
    if isinstance(module, ShaderError):
        return [_verdict(canary, "its derivative does not compile")]
    error = _gradient_error(module)
    return [_verdict(canary, "" if error < _TOLERANCE else f"off by {100 * error:.0f} %")]


def try_reverse() -> list[Finding]:
    """Whether the reverse of a kernel runs the kernel itself again."""
    module = _load(_STORING.file)
    if isinstance(module, ShaderError):
        return [_verdict(_STORING, "its derivative does not compile")]
    x, out, runs = _inputs(), torch.zeros(_ROWS).double(), torch.zeros(_ROWS, dtype=torch.int32)
    launch = module.canary.bwd(x=(x, torch.zeros_like(x)), out_y=(out, torch.ones_like(out)), out_runs=runs)
    launch.launchRaw(blockSize=(_ROWS, 1, 1), gridSize=(1, 1, 1))
    return [_verdict(_STORING, "it runs the kernel again, and stores all outputs" if int(runs.max()) else "")]


def _verdict(canary: Canary, complaint: str) -> Finding:
    reported = f" ({canary.reported})" if canary.reported else ""
    if complaint:
        text = f"affected{reported}: {complaint}. Instead: {canary.instead}"
        return Finding(GRADIENTS, canary.name, AFFECTED, text)
    return Finding(GRADIENTS, canary.name, OK, f"not affected{reported}")


def _gradient_error(module: Module) -> float:
    """The largest error of a canary's gradient, relative to the largest gradient."""
    x, out = _inputs(), torch.zeros(_ROWS).double()
    grad_x, grad_out = torch.zeros_like(x), torch.linspace(1.0, 2.0, _ROWS).double()

    def launch(launchable: slangrast.runtime.Launchable) -> None:
        launchable.launchRaw(blockSize=(_ROWS, 1, 1), gridSize=(1, 1, 1))

    def evaluate(x: torch.Tensor) -> torch.Tensor:
        launch(module.canary(x=x, out_y=out))
        return (out * grad_out).sum()

    launch(module.canary.bwd(x=(x, grad_x), out_y=(torch.empty_like(out), grad_out.clone())))
    moves = _STEP * torch.eye(len(x)).double()
    expected = torch.stack([(evaluate(x + move) - evaluate(x - move)) / (2 * _STEP) for move in moves])
    error = (grad_x - expected).abs().max() / expected.abs().max()
    return float(error) if error.isfinite() else float("inf")


def _inputs() -> torch.Tensor:
    """[12] Three numbers for each of four threads, no two alike."""
    return torch.linspace(0.3, 1.1, _ROWS * _COLUMNS).double()


@functools.cache
def _load(file: str) -> Module | ShaderError:
    try:
        return load_module(CANARIES / f"{file}.slang", device="cpu", precision="float64")
    except ShaderError as error:
        return error


def try_soft_rasterizer() -> list[Finding]:
    """The shipped formulas, in an image of two triangles that cross: a wrong gradient of these is a problem."""
    name = "soft_rasterize"
    try:
        error = _soft_rasterizer_error()
    except ShaderError as problem:
        return [Finding(GRADIENTS, name, PROBLEM, f"does not compile: {problem.summary}", REPORT)]
    if error < _TOLERANCE:
        return [Finding(GRADIENTS, name, OK, f"right, off by {error:.0e}")]
    return [Finding(GRADIENTS, name, PROBLEM, f"its gradient is wrong: off by {100 * error:.2g} %", _GOOD_SLANGC)]


def _soft_rasterizer_error() -> float:
    """The largest error of the gradient along eight random directions, relative to the largest change."""
    numbers = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=numbers).double()

    corners = torch.tensor([[-0.7, -0.5], [0.8, -0.3], [-0.1, 0.7], [-0.4, 0.6], [0.3, -0.8], [0.9, 0.5]]).double()
    w = 2 + random(6, 1)
    positions = w * torch.cat([corners, random(6, 1), torch.ones(6, 1)], dim=1)
    inputs = [positions, random(6, 2), 0.1 + random(), 0.1 + random()]
    triangles, weights = torch.tensor([[0, 1, 2], [3, 4, 5]]), random(1, 7, 9, 4)

    def loss(positions: torch.Tensor, colors: torch.Tensor, sigma: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
        image = slangrast.soft_rasterize(positions, triangles, colors, (7, 9), sigma=sigma, gamma=gamma, cutoff=1e-9)
        return (torch.cat([image.color, image.silhouette[..., None], image.depth[..., None]], dim=-1) * weights).sum()

    given = [tensor.clone().requires_grad_() for tensor in inputs]
    gradients = torch.autograd.grad(loss(*given), given)
    claimed, measured = [], []
    for _ in range(8):
        moves = [_STEP * (random(*tensor.shape) - 0.5) for tensor in inputs]
        there, back = ([t + sign * move for t, move in zip(inputs, moves, strict=True)] for sign in (1, -1))
        measured.append((loss(*there) - loss(*back)) / 2)
        products = [(gradient * move).sum() for gradient, move in zip(gradients, moves, strict=True)]
        claimed.append(torch.stack(products).sum())
    error = (torch.stack(claimed) - torch.stack(measured)).abs().max() / torch.stack(measured).abs().max()
    return float(error) if error.isfinite() else float("inf")


TRIALS: dict[str, Callable[[], list[Finding]]] = {
    "canaries (compiling)": compile_canaries,
    **{canary.name: partial(try_gradient, canary) for canary in _WITH_GRADIENTS},
    _STORING.name: try_reverse,
    "soft_rasterize": try_soft_rasterizer,
}
SHIPPED = frozenset({"soft_rasterize"})
