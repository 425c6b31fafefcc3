"""Checks of what users give to `texture` and `mip_stack`. Each raises in the name of the function that was called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from .arguments import check_float, computed_in, show

CUBE_FACES = 6


def choose(name: str, key: str, value: Any, allowed: Mapping[str, int]) -> int:
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name}: {key} must be one of {list(allowed)}, got {value!r}")
    return allowed[value]


def check_image(name: str, image: Any) -> int:
    """The number of its faces."""
    check_float(name, "image", image)
    if image.dim() not in (3, 4, 5) or 0 in image.shape[:-1]:
        raise ValueError(
            f"{name}: image must be [N, Ht, Wt, C], [Ht, Wt, C] or [N, 6, S, S, C] float with a texel at least, "
            f"got {show(image)}"
        )
    if image.dim() == 5 and (image.shape[1] != CUBE_FACES or image.shape[2] != image.shape[3]):
        raise ValueError(f"{name}: image must be [N, 6, S, S, C], 6 square faces, as a cube map, got {show(image)}")
    if image.device.type not in ("cpu", "cuda"):
        raise ValueError(f"{name}: image must be on the CPU or a CUDA device, got a tensor on {image.device}")
    return CUBE_FACES if image.dim() == 5 else 1


def check_levels(name: str, levels: Any, sizes: list[tuple[int, int]]) -> int:
    if levels is None:
        return len(sizes)
    if isinstance(levels, bool) or not isinstance(levels, int):
        raise TypeError(f"{name}: levels must be an integer or None, got {type(levels).__name__}")
    if not 1 <= levels <= len(sizes):
        height, width = sizes[0]
        raise ValueError(
            f"{name}: levels must be in [1, {len(sizes)}] for an image of {height} x {width}, got {levels}"
        )
    return levels


def check_reach(name: str, key: str, elements: int, like: torch.Tensor) -> None:
    """Before memory is taken: one image must stay within what Slang's 32-bit byte strides can step over."""
    size = elements * like.element_size()
    if size >= 2**32:
        raise ValueError(
            f"{name}: {key} must be below 4 GiB for each image, the reach of Slang's 32-bit strides, got "
            f"{size / 2**30:.1f} GiB: use it in parts"
        )


def check_kind(name: str, wrap: str, faces: int, size: tuple[int, int]) -> None:
    if (wrap == "cube") != (faces > 1):
        wanted = "a cube map [N, 6, S, S, C]" if wrap == "cube" else "[N, Ht, Wt, C] or [Ht, Wt, C]"
        got = f"{'a cube map' if faces > 1 else 'an image'} of {size[0]} x {size[1]}"
        raise ValueError(f"{name}: image must be {wanted} with wrap {wrap!r}, got {got}")


def check_detail_is_used(name: str, filter: str, uses_mips: bool, **given: Any) -> None:
    """Neither ignored, nor missed."""
    keys = [key for key, value in given.items() if value is not None]
    if uses_mips and not keys:
        raise ValueError(f"{name}: filter {filter!r} needs {' or '.join(given)}, got neither")
    if keys and not uses_mips:
        raise ValueError(f"{name}: {keys[0]} must be None with filter {filter!r}, which has no levels of detail")


def check_uv(name: str, uv: Any, wrap: str, texels: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """[N, H, W, 2 or 3], for as many images as there are in all."""
    dimensions = 3 if wrap == "cube" else 2
    uv = _check_like_image(name, "uv", uv, texels, dtype)
    if uv.dim() != 4 or uv.shape[-1] != dimensions or len(uv) == 0:
        raise ValueError(f"{name}: uv must be [N, H, W, {dimensions}] float with wrap {wrap!r}, got {show(uv)}")
    images = max(len(texels), len(uv))
    if {len(texels), len(uv)} - {1, images}:
        raise ValueError(f"{name}: uv must be for 1 or {len(texels)} images like image, got {len(uv)}")
    return computed_in(uv).expand(images, -1, -1, -1)


def check_derivatives(
    name: str, value: Any, uv: torch.Tensor, texels: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """[N, H, W, 4 or 6], or empty where there are none."""
    if value is None:
        return texels.new_empty((1, 1, 1, 0))
    value = _check_like_image(name, "uv_derivatives", value, texels, dtype)
    flat = value.flatten(3) if value.dim() == 5 and value.shape[4] == 2 else value
    *pixels, dimensions = uv.shape
    if flat.dim() != 4 or list(flat.shape[1:]) != [*pixels[1:], 2 * dimensions] or len(flat) not in (1, len(uv)):
        raise ValueError(
            f"{name}: uv_derivatives must be {[*pixels, 2 * dimensions]} or {[*pixels, dimensions, 2]} float for this "
            f"uv, got {show(value)}"
        )
    return computed_in(flat).expand(len(uv), -1, -1, -1)


def check_bias(name: str, value: Any, uv: torch.Tensor, texels: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """[N, H, W], or empty where there is none."""
    if value is None:
        return texels.new_empty((1, 1, 0))
    pixels = uv.shape[:3]
    if isinstance(value, torch.Tensor):
        value = _check_like_image(name, "mip_bias", value, texels, dtype)
        if value.dim() != 0 and (value.dim() != 3 or value.shape[1:] != pixels[1:] or len(value) not in (1, len(uv))):
            raise ValueError(f"{name}: mip_bias must be a number or a tensor [] or {list(pixels)}, got {show(value)}")
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        value = texels.new_tensor(value)
    else:
        raise TypeError(f"{name}: mip_bias must be a number or a float tensor, got {type(value).__name__}")
    return computed_in(value).expand(pixels)


def _check_like_image(name: str, key: str, value: Any, texels: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    check_float(name, key, value)
    if value.device != texels.device:
        raise ValueError(f"{name}: {key} must be on {texels.device} like image, got a tensor on {value.device}")
    if (value.dtype == torch.float64) != (dtype == torch.float64):
        wanted = str(dtype).removeprefix("torch.")
        raise ValueError(f"{name}: {key} must be {wanted} like image, got {show(value)}")
    return value
