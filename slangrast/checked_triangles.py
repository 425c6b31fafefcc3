"""Triangles whose indices are known to be those of vertices, kept: most calls of a session have the same ones."""

from __future__ import annotations

import ctypes
from typing import NamedTuple

import torch

_MOST_BYTES = 2**20  # of indices that are kept: of more, a check takes little of a call
_MOST_KEPT = 8


class _Checked(NamedTuple):
    given: torch.Tensor  # a copy: it tells, as no count of versions does, whether the memory holds what was checked
    triangles: torch.Tensor  # [F, 3] int32


_kept: dict[tuple[int, int, torch.dtype, int], _Checked] = {}
_compare = ctypes.CDLL(None).memcmp
_compare.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]


def check_triangles(name: str, triangles: torch.Tensor, vertices: int) -> torch.Tensor:
    """[F, 3] int32 or int64 on the CPU, as int32. Nothing writes to it, unless a user does to what an op returned.

    Raises:
        ValueError: an index is not one of `vertices` vertices; in the name of the public function.
    """
    size = triangles.numel() * triangles.element_size()
    if size > _MOST_BYTES or not triangles.is_contiguous():
        return _check(name, triangles, vertices)
    address = triangles.data_ptr()
    key = (address, size, triangles.dtype, vertices)
    kept = _kept.get(key)
    if kept and not kept.triangles._version and _compare(address, kept.given.data_ptr(), size) == 0:
        return kept.triangles
    with torch.inference_mode(False):  # a tensor made in that mode could not be saved for a later reverse
        given = triangles.clone()
        kept = _kept[key] = _Checked(given, _check(name, given, vertices))
    while len(_kept) > _MOST_KEPT:
        _kept.pop([*_kept][0], None)  # noqa: RUF015 (other threads may add between iter and next)
    return kept.triangles


def _check(name: str, triangles: torch.Tensor, vertices: int) -> torch.Tensor:
    if triangles.numel():
        low, high = (int(bound) for bound in torch.aminmax(triangles))
        if low < 0 or high >= vertices:
            raise ValueError(
                f"{name}: triangles must hold indices of the {vertices} vertices, 0 to {vertices - 1}, "
                f"got indices from {low} to {high}"
            )
    return triangles.to(torch.int32)
