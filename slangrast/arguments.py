"""Checks of what users give to the rasterizers. Each raises in the name of the public function that was called."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from .checked_triangles import check_triangles
from .runtime.kept_tensors import keep_tensors

_MOST_IMAGES = 65535  # of one launch, on CUDA
_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_SMALLEST_GAMMA = 1e-8
_SMALLEST_SIGMA = 1e-12  # below it the square of 1 / sigma leaves the range of a float


class Limits(NamedTuple):
    near: float
    far: float
    cutoff: float


class Scene(NamedTuple):
    """Checked inputs, in the precision that the kernels compute in."""

    positions: torch.Tensor  # [N, V, 4]
    triangles: torch.Tensor  # [F, 3] int32
    resolution: tuple[int, int]
    dtype: torch.dtype  # of the user's tensors, and of the images

    def repeated(self, images: int) -> Scene:
        return Scene(self.positions.expand(images, -1, -1), self.triangles, self.resolution, self.dtype)


def check_scene(name: str, positions: Any, triangles: Any, resolution: Any) -> Scene:
    dtype = check_float(name, "positions", positions)
    if positions.dim() not in (2, 3) or positions.shape[-1] != 4:
        raise ValueError(f"{name}: positions must be [N, V, 4] or [V, 4] float, got {show(positions)}")
    if positions.dim() == 3 and positions.shape[0] == 0:
        raise ValueError(f"{name}: positions must be of at least one image, got {show(positions)}")
    if positions.dim() == 3 and positions.shape[0] > _MOST_IMAGES:
        raise ValueError(f"{name}: positions must be of at most {_MOST_IMAGES} images, got {show(positions)}")
    if not (positions.is_cpu or positions.is_cuda):
        raise ValueError(f"{name}: positions must be on the CPU or a CUDA device, got a tensor on {positions.device}")
    if not isinstance(triangles, torch.Tensor):
        raise TypeError(f"{name}: triangles must be a tensor [F, 3] of int32 or int64, got {type(triangles).__name__}")
    if triangles.dim() != 2 or triangles.shape[1] != 3 or triangles.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"{name}: triangles must be [F, 3] int32 or int64, got {show(triangles)}")
    check_device(name, "triangles", triangles, positions)
    positions = positions if positions.dim() == 3 else positions.unsqueeze(0)
    # On CUDA the look at the indices would stall the device, and is left out.
    triangles = check_triangles(name, triangles, positions.shape[1]) if triangles.is_cpu else triangles.to(torch.int32)
    resolution = check_resolution(name, resolution)
    return Scene(computed_in(positions), triangles, resolution, dtype)


def check_resolution(name: str, resolution: Any) -> tuple[int, int]:
    try:
        height, width = resolution
        if type(height) is type(width) is int and min(height, width) >= 1:  # as it is nearly always
            return height, width
        height, width = int(height), int(width)
        valid = (height, width) == tuple(resolution) and height >= 1 and width >= 1
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise ValueError(f"{name}: resolution must be (height, width), two integers of at least 1, got {resolution!r}")
    return height, width


def check_image_size(name: str, scene: Scene, channels: int) -> None:
    """Before memory is taken: one image must stay within what Slang's 32-bit byte strides can step over."""
    height, width = scene.resolution
    size = height * width * max(channels, 2) * scene.positions.element_size()  # the kernel keeps two values a pixel
    if size >= 2**32:
        raise ValueError(
            f"{name}: resolution must leave an image of {channels} channels below 4 GiB, the reach of Slang's 32-bit "
            f"strides, got {height} x {width}, {size / 2**30:.1f} GiB: render it in parts"
        )


def check_attributes(name: str, attributes: Any, scene: Scene) -> torch.Tensor:
    check_float(name, "attributes", attributes)
    images, vertices, _ = scene.positions.shape
    if attributes.dim() not in (2, 3) or attributes.shape[-2] != vertices:
        raise ValueError(
            f"{name}: attributes must be [N, V, C] or [V, C] float with V = {vertices}, got {show(attributes)}"
        )
    check_device(name, "attributes", attributes, scene.positions)
    attributes = attributes if attributes.dim() == 3 else attributes.unsqueeze(0)
    if attributes.shape[0] != images and 1 not in (attributes.shape[0], images):
        raise ValueError(f"{name}: attributes must be for 1 or {images} images like positions, got {len(attributes)}")
    check_same_float(name, "attributes", attributes, scene)
    return computed_in(attributes)


def check_background(name: str, background: Any, scene: Scene, channels: int) -> torch.Tensor:
    """As [N, H, W, C], without a copy; N, H and W are 1 where all are alike and need no gradient."""
    images, (height, width) = scene.positions.shape[0], scene.resolution
    numbers: Any = 0.0 if background is None else background
    numbers = (numbers,) * channels if type(numbers) in (float, int) else numbers
    if type(numbers) in (tuple, list) and len(numbers) == channels and {float, int}.issuperset(map(type, numbers)):
        return _background_of_numbers(scene.positions.dtype, scene.positions.device, *numbers)
    if not isinstance(background, torch.Tensor):
        try:
            background = torch.tensor(background, dtype=scene.positions.dtype, device=scene.positions.device)
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(
                f"{name}: background must be None, a number, a sequence of C numbers or a tensor, got {background!r}"
            ) from None
    check_float(name, "background", background)
    check_device(name, "background", background, scene.positions)
    check_same_float(name, "background", background, scene)
    shape = tuple(background.shape)
    image, image_of_each = (height, width, channels), (images, height, width, channels)
    if shape == (images, channels) and len(shape) == 2:
        background = background[:, None, None, :]
    elif shape not in ((), (channels,), image, image_of_each, (1, *image)):
        raise ValueError(
            f"{name}: background must be a number, [C], [N, C], [H, W, C] or [N, H, W, C] with N, H, W, C = "
            f"{image_of_each}, got {list(shape)}"
        )
    least = image_of_each if background.requires_grad and torch.is_grad_enabled() else (1, 1, 1, channels)
    return computed_in(background).expand(torch.broadcast_shapes(background.shape, least))


@keep_tensors(64)
def _background_of_numbers(dtype: torch.dtype, device: torch.device, *numbers: float) -> torch.Tensor:
    """[1, 1, 1, C], kept: a copy to the GPU takes longer than a small image. Nothing writes to it."""
    with torch.inference_mode(False):  # a tensor made in that mode could not be saved for a later reverse
        return torch.tensor(numbers, dtype=dtype, device=device).reshape(1, 1, 1, -1)


@keep_tensors(256)
def lasting_zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """A zero for every element, kept. Nothing writes to it."""
    with torch.inference_mode(False):  # a tensor made in that mode could not be saved for a later reverse
        return torch.zeros((), dtype=dtype, device=device).expand(shape)


def check_softness(name: str, scene: Scene, **values: Any) -> torch.Tensor:
    """sigma, gamma and epsilon of each image, as [N, 3]."""
    images = scene.positions.shape[0]
    if all(type(value) in (float, int) for value in values.values()):
        return _softness_of_numbers(name, scene.positions.dtype, scene.positions.device, images, *values.items())
    return _softness(name, scene.positions, values)


@keep_tensors(256)
def _softness_of_numbers(
    name: str, dtype: torch.dtype, device: torch.device, images: int, *values: tuple[str, float]
) -> torch.Tensor:
    """Kept, since most calls of a session have the same numbers. Nothing writes to it."""
    with torch.inference_mode(False):  # as above
        return _softness(name, torch.empty((images, 0), dtype=dtype, device=device), dict(values))


def _softness(name: str, positions: torch.Tensor, values: Mapping[str, Any]) -> torch.Tensor:
    images = len(positions)
    least = {"sigma": 0.0, "gamma": _SMALLEST_GAMMA}
    columns = []
    for key, value in values.items():
        if isinstance(value, torch.Tensor):
            check_float(name, key, value)
            check_device(name, key, value, positions, unless_scalar=True)
            if tuple(value.shape) not in ((), (1,), (images,)):
                raise ValueError(f"{name}: {key} must be a number or a tensor [] or [{images}], got {show(value)}")
            known = value.detach() if value.device.type == "cpu" else None
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            value = known = torch.tensor(float(value), dtype=torch.float64, device="cpu")
        else:
            raise TypeError(f"{name}: {key} must be a number or a tensor, got {type(value).__name__}")
        if known is not None:
            _check_softness_range(name, key, known, least.get(key))
        columns.append(value.to(positions).expand(images))
    return torch.stack(columns, dim=1)


def _check_softness_range(name: str, key: str, value: torch.Tensor, least: float | None) -> None:
    if not bool(torch.isfinite(value).all()):
        raise ValueError(f"{name}: {key} must be finite, got {value.tolist()}")
    if key == "sigma" and not bool((value > 0).all()):
        raise ValueError(f"{name}: sigma must be > 0, got {value.tolist()}")
    if key == "sigma" and not bool((value >= _SMALLEST_SIGMA).all()):
        raise ValueError(f"{name}: sigma must be at least {_SMALLEST_SIGMA:g}, got {value.tolist()}")
    if key == "gamma" and least is not None and not bool((value.double() >= least * (1 - 1e-6)).all()):
        raise ValueError(f"{name}: gamma must be at least {least:g}, got {value.tolist()}")


def check_limits(name: str, near: Any, far: Any, cutoff: Any) -> Limits:
    for key, value in {"near": near, "far": far, "cutoff": cutoff}.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{name}: {key} must be a number, got {type(value).__name__}")
        if not math.isfinite(value):
            raise ValueError(f"{name}: {key} must be finite, got {value}")
    if not 0 < near < far:
        raise ValueError(f"{name}: near and far must be 0 < near < far, got near {near} and far {far}")
    if not 0 < cutoff <= 0.5:
        raise ValueError(f"{name}: cutoff must be in (0, 0.5], got {cutoff}")
    return Limits(float(near), float(far), float(cutoff))


def check_float(name: str, key: str, value: Any) -> torch.dtype:
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name}: {key} must be a float tensor, got {type(value).__name__}")
    if value.dtype not in _FLOATS:
        raise TypeError(f"{name}: {key} must be float32, float64, float16 or bfloat16, got {show(value)}")
    if value.dtype == torch.float64 and not value.is_cpu:
        raise ValueError(f"{name}: {key} must be float32 on {value.device}: float64 runs on the CPU, got float64")
    return value.dtype


def check_same_float(name: str, key: str, value: torch.Tensor, scene: Scene) -> None:
    if (value.dtype == torch.float64) != (scene.positions.dtype == torch.float64):
        dtype = str(scene.dtype).removeprefix("torch.")
        raise ValueError(f"{name}: {key} must be {dtype} like positions, got {show(value)}")


def check_device(name: str, key: str, value: torch.Tensor, like: torch.Tensor, unless_scalar: bool = False) -> None:
    if value.device != like.device and not (unless_scalar and value.dim() == 0):
        raise ValueError(f"{name}: {key} must be on {like.device} like positions, got a tensor on {value.device}")


def choose(name: str, key: str, value: Any, allowed: dict[str, str]) -> str:
    if value not in allowed:
        raise ValueError(f"{name}: {key} must be one of {sorted(allowed)}, got {value!r}")
    return allowed[value]


def computed_in(tensor: torch.Tensor) -> torch.Tensor:
    """Half and bfloat16 are computed in float32; autograd casts the gradient back."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def show(tensor: torch.Tensor) -> str:
    return f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
