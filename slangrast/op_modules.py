"""The compiled modules of the ops: one for each variant that is in use, for the life of the process."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from .formulas import Choice, Layout, describe
from .runtime import Module
from .runtime.checks import Checks, current_checks
from .runtime.request import BuildRequest
from .runtime.shader_paths import shader_folder

TILE = 16


class Tiling(NamedTuple):
    """How the soft rasterizer shares out an image."""

    tile: int  # pixels of a tile across and down
    splits: int  # threads of a block that share a pixel, each with a part of its tile's list
    reverse_splits: int  # in the reverse, blocks that share a tile likewise, where its list is long

    @property
    def defines(self) -> tuple[tuple[str, int], ...]:
        return ("TILE", self.tile), ("SPLITS", self.splits), ("REVERSE_SPLITS", self.reverse_splits)

    def tiles(self, resolution: tuple[int, int]) -> int:
        """Those of one image."""
        return -(-resolution[0] // self.tile) * -(-resolution[1] // self.tile)


ONE_THREAD_A_TILE = Tiling(TILE, 1, 1)
# Of a small image, tiles of 16 x 16 would leave most of a GPU without work. Blocks have 256 threads: with more,
# a kernel of many channels asks for more registers than a multiprocessor has, and cannot be launched.
_WARPS_SMALL, _WARPS = Tiling(8, 4, 4), Tiling(TILE, 1, 4)
_SMALL_SIDE = 128


def tiling_for(like: torch.Tensor, resolution: tuple[int, int]) -> Tiling:
    """How to share out an image of `resolution` on the device of `like`."""
    if not has_warps(_device_type(like)):
        return ONE_THREAD_A_TILE
    return _WARPS_SMALL if max(resolution) <= _SMALL_SIDE else _WARPS


def _device_type(like: torch.Tensor) -> str:
    return "cpu" if like.is_cpu else like.device.type  # a device takes longer to make than the rest of a look-up


def has_warps(device_type: str) -> bool:
    """Whether kernels run in warps of more than one lane, on the device and in the checks that are in force."""
    return device_type != "cpu" or current_checks.get().simt


def op_module(
    shader: str,
    like: torch.Tensor,
    defines: Mapping[str, Any] | tuple[tuple[str, Any], ...] = (),
    choices: tuple[Choice, ...] = (),
) -> Module:
    """The module of a shipped shader for tensors like `like`, as it is now: a hot reload does not change it in mid-op.

    Args:
        shader: its name.
        like: a tensor on the device and in the precision to compute in.
        defines: macros, as a mapping or as its items. TILE is 16 where they do not say otherwise.
        choices: the formulas that it is compiled with; what they take from Python is then `layout_of(module)`.
    """
    precision = "float64" if like.dtype == torch.float64 else "float32"
    macros = defines if isinstance(defines, tuple) else tuple(defines.items())
    return _load(shader, _device_type(like), precision, current_checks.get(), macros, choices).snapshot()


def layout_of(module: Module) -> Layout:
    """What the formulas of a module take."""
    layout = module.request.attachment
    assert isinstance(layout, Layout), "the module was loaded without formulas"
    return layout


def patch_of(module: Module) -> int:
    """How many pixels across a thread renders: a whole tile where a warp is one lane, so that rows become vectors."""
    return TILE if module.warp_size == 1 else 1


@functools.cache
def _load(
    shader: str,
    device_type: str,
    precision: str,
    checks: Checks,
    defines: tuple[tuple[str, Any], ...],
    choices: tuple[Choice, ...],
) -> Module:
    if device_type != "cpu" and checks.debug:
        raise ValueError(f"debug.checked: checks run on the CPU only, got tensors on {device_type!r}")
    folder = shader_folder().resolve()
    macros = {name: str(int(value)) if isinstance(value, bool) else str(value) for name, value in defines}
    engine = "simt" if checks.simt else None
    patch = 1 if has_warps(device_type) else TILE

    def request() -> BuildRequest:
        layout = describe(choices)
        return BuildRequest(
            path=str(folder / f"{shader}.slang"),
            defines={"TILE": str(TILE), **macros, "PATCH": str(patch), **layout.defines},
            include_paths=(str(folder),),
            precision=precision,
            debug=checks.debug,
            attachment=layout,
        )

    return Module(request, device_type, engine)
