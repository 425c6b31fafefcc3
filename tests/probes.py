"""Device functions alone: the kernels of `shaders/probe_*.slang`, each one function on every row of a tensor.

A reference gets the same float64 rows [R, columns] and returns [R, outputs]. `assert_agrees` compares values, and
gradients under random cotangents; in float64 it asks finite differences too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import slangrast as sr

SHADERS = Path(__file__).parent / "shaders"
VALUE_TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
GRADIENT_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}
FACE = 12  # columns of a face: x, y, z/w and 1/w of each vertex


@functools.cache
def _load(file: str, device: str, precision: str, defines: tuple[tuple[str, Any], ...]) -> sr.runtime.Module:
    return sr.load_module(SHADERS / f"probe_{file}.slang", device=device, precision=precision, defines=dict(defines))


def kernel_of(file: str, name: str, like: Tensor, **defines: Any) -> sr.runtime.Kernel:
    precision = "float64" if like.dtype == torch.float64 else "float32"
    return getattr(_load(file, like.device.type, precision, tuple(defines.items())), f"probe_{name}")


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, inputs: Tensor, kernel, outputs: int) -> Tensor:
        ctx.kernel = kernel
        result = inputs.new_full((len(inputs), outputs), torch.nan)
        _launch(kernel, len(inputs), inputs=inputs, outputs=result)
        ctx.save_for_backward(inputs, result)
        return result

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        inputs, result = ctx.saved_tensors
        # NaN, so that a gradient that the kernel does not write is seen; only columns without one stay so.
        grad_inputs = torch.full_like(inputs, torch.nan)
        pair = (result, gradient.contiguous())
        _launch(ctx.kernel.bwd, len(inputs), inputs=(inputs, grad_inputs), outputs=pair)
        return grad_inputs, None, None


def _launch(kernel, rows: int, **tensors) -> None:
    kernel(**tensors).launchRaw(blockSize=(64, 1, 1), gridSize=(-(-rows // 64), 1, 1))


def probe(file: str, name: str, inputs: Tensor, outputs: int = 1, **defines: Any) -> Tensor:
    """[R, outputs] The device function `name` on every row of `inputs`, in their precision, with its gradient."""
    return _Rows.apply(inputs, kernel_of(file, name, inputs, **defines), outputs)


def assert_agrees(
    file: str,
    name: str,
    reference: Callable[[Tensor], Tensor],
    rows: Tensor,
    device: str,
    dtype: torch.dtype,
    *,
    constants: int = 0,
    gradient: bool = True,
    **defines: Any,
) -> None:
    """The first `constants` columns carry no gradient. With `gradient` false, compare the values alone."""
    given = rows.to(device, dtype).requires_grad_(gradient)
    exact = given.detach().cpu().double().requires_grad_(gradient)  # rounded alike
    expected = reference(exact)
    found = probe(file, name, given, expected.shape[1], **defines)
    assert found.device.type == device and found.dtype == dtype
    _assert_close(found, expected, VALUE_TOLERANCE[dtype])
    if not gradient:
        return
    cotangent = torch.randn(expected.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    (ours,) = torch.autograd.grad(found, given, cotangent.to(found))
    (theirs,) = torch.autograd.grad(expected, exact, cotangent)
    assert theirs.abs().max() > 0
    _assert_close(ours[:, constants:], theirs[:, constants:], GRADIENT_TOLERANCE[dtype])
    if dtype == torch.float64:
        by_differences = differences(lambda x: probe(file, name, x, expected.shape[1], **defines), given, cotangent)
        _assert_close(ours[:, constants:], by_differences[:, constants:], 1e-6)


def differences(function: Callable[[Tensor], Tensor], rows: Tensor, cotangent: Tensor, step: float = 1e-6) -> Tensor:
    """Central differences of `function`, all rows at once: no row's result depends on another's."""
    columns = []
    for move in step * torch.eye(rows.shape[1], dtype=rows.dtype):
        change = function(rows.detach() + move) - function(rows.detach() - move)
        columns.append((change * cotangent).sum(dim=1) / (2 * step))
    return torch.stack(columns, dim=1)


def _assert_close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    """To `tolerance` relative to each value, and a tenth of it relative to the largest of its column."""
    expected = expected.detach()
    allowed = tolerance * (expected.abs() + expected.abs().amax(dim=0).clamp(min=1e-3) / 10)
    error = (found.detach().cpu().double() - expected).abs()
    worst = (error / allowed).amax().item()
    assert (error <= allowed).all(), f"an error {worst:.3g} times as large as allowed"


# Rows


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def corners_of(faces: Tensor) -> Tensor:
    """[R, 3, 2] Screen positions of the vertices of faces [R, 12]."""
    return faces.reshape(-1, 3, 4)[..., :2]


def random_faces(count: int, seed: int = 0) -> Tensor:
    """[count, 12] Float64 faces of either winding, none thinner than a tenth of its longest side."""
    numbers = generator(seed)
    corners = torch.randn(20 * count, 3, 2, generator=numbers, dtype=torch.float64)
    edges = corners.roll(-1, dims=1) - corners
    double_area = edges[:, 0, 0] * edges[:, 1, 1] - edges[:, 0, 1] * edges[:, 1, 0]
    corners = corners[double_area.abs() > 0.1 * edges.square().sum(-1).amax(dim=1)][:count]
    assert len(corners) == count
    depth = 2 * torch.rand(count, 3, 1, generator=numbers, dtype=torch.float64) - 1
    inverse_w = 0.1 + 0.9 * torch.rand(count, 3, 1, generator=numbers, dtype=torch.float64)
    return torch.cat([corners, depth, inverse_w], dim=2).flatten(1)


def pixels_around(faces: Tensor, seed: int = 0) -> Tensor:
    """[R, 2] A pixel for each face: inside, nearest to an edge or nearest to a vertex, all of them often."""
    weights = torch.rand(len(faces), 3, generator=generator(100 + seed), dtype=torch.float64) * 2.4 - 0.8
    weights[::3] = weights[::3].abs() + 0.05
    weights = weights / weights.sum(dim=1, keepdim=True).clamp(min=0.4)  # others lie far off
    weights[:, 0] += 1 - weights.sum(dim=1)
    return (weights[..., None] * corners_of(faces)).sum(dim=1)


def pixels_and_faces(count: int, seed: int = 0) -> Tensor:
    """[count, 14]"""
    faces = random_faces(count, seed)
    return torch.cat([pixels_around(faces, seed), faces], dim=1)


def row_by_row(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A reference for all pixels [P, 2] against all faces [F, 3, 2], made one for pixel r against face r."""

    def of_rows(points: Tensor, corners: Tensor, *more: Tensor) -> Tensor:
        return torch.vmap(lambda p, c, *m: function(p[None], c[None], *m)[0, 0])(points.detach(), corners, *more)

    return of_rows
