"""Textures and points to look up, for `slangrast.texture` and for its float64 torch twin alike."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import slangrast as sr
from tests.references.texture import texture as texture_reference

FILTERS = ("nearest", "linear", "linear_mipmap_nearest", "linear_mipmap_linear")
WRAPS = ("repeat", "clamp", "zero", "cube")
SIZES = [(5, 7), (8, 4), (1, 1), (1, 6), (9, 1)]  # (height, width)
PIXELS = (11, 13)

in_every_filter = pytest.mark.parametrize("filter", FILTERS)
in_every_wrap = pytest.mark.parametrize("wrap", WRAPS)


def numbers(seed: int, *shape: int) -> Tensor:
    """Uniform in [0, 1], float64."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def lookup(
    filter: str,
    wrap: str,
    size: tuple[int, int] = (5, 7),
    images: tuple[int, int] = (1, 1),
    channels: int = 3,
    pixels: tuple[int, int] = PIXELS,
    seed: int = 0,
) -> dict[str, Any]:
    """Float64 arguments of `texture`: in and around [0, 1] or all around a cube, on all levels and beyond both ends."""
    faces, size = ((6,), (size[1], size[1])) if wrap == "cube" else ((), size)
    arguments: dict[str, Any] = {"image": numbers(seed, images[0], *faces, *size, channels)}
    shape, dimensions = (images[1], *pixels), 3 if wrap == "cube" else 2
    place = numbers(seed + 1, *shape, dimensions)
    arguments["uv"] = 2 * place - 1 if wrap == "cube" else 3 * place - 1
    if "mipmap" in filter:
        steps = 2 * numbers(seed + 2, *shape, 2 * dimensions) - 1
        arguments["uv_derivatives"] = steps * 4 ** (2 * numbers(seed + 3, *shape, 1) - 1.5) / max(size) * 4
        arguments["mip_bias"] = numbers(seed + 4, *shape) - 0.5
    return {**arguments, "filter": filter, "wrap": wrap}


def cast(arguments: dict[str, Any], device: str, dtype: torch.dtype) -> dict[str, Any]:
    return {key: value.to(device, dtype) if isinstance(value, Tensor) else value for key, value in arguments.items()}


def exact(arguments: dict[str, Any]) -> dict[str, Any]:
    """What the reference takes: the same numbers, rounded alike."""
    return cast({k: v.detach() if isinstance(v, Tensor) else v for k, v in arguments.items()}, "cpu", torch.float64)


def look_up(arguments: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Found and expected."""
    return sr.texture(**arguments), texture_reference(**exact(arguments))


def largest_error(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    assert found.isfinite().all()
    return (found.detach().cpu().double() - expected.detach().cpu().double()).abs().max().item()
