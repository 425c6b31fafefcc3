"""Launches: a kernel with its arguments, and how many threads of it run in how many blocks."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from typing import Any

from .signature import KernelSignature

_MAX_THREADS_PER_BLOCK = 1024
# What CUDA can launch, in x, y and z. The CPU could do more, but then a kernel that runs here would fail there.
_MAX_BLOCK = (1024, 1024, 64)
_MAX_GRID = (2**31 - 1, 65535, 65535)


class Launchable:
    """A kernel with its arguments, ready to run. Nothing runs until `launchRaw` or `Module.launch`."""

    def __init__(self, build: Any, entry: KernelSignature, packed: Any) -> None:
        self._build, self._entry, self._packed = build, entry, packed

    def launchRaw(self, blockSize: Sequence[int], gridSize: Sequence[int]) -> None:
        """Run on `gridSize` blocks of `blockSize` threads, each a tuple of three integers (x, y, z).

        Raises:
            ValueError: a size is not three positive integers (a grid may be 0), or is more than CUDA can launch: a
                block of 1024 threads and (1024, 1024, 64), a grid of (2147483647, 65535, 65535).
        """
        block, grid = _size(blockSize, "blockSize", 1, _MAX_BLOCK), _size(gridSize, "gridSize", 0, _MAX_GRID)
        if math.prod(block) > _MAX_THREADS_PER_BLOCK:
            raise ValueError(f"launchRaw: a block has at most {_MAX_THREADS_PER_BLOCK} threads, got blockSize {block}")
        if math.prod(grid) > 0:
            self._build.launch(self._entry, self._packed, block, grid)


def block_and_grid(over: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A block, and a grid of such blocks with at least one thread for each point of `over`."""
    if type(over) is tuple and {*map(type, over)} == {int} and len(over) <= 3 and min(over) >= 0:
        return _block_and_grid(*over)
    extent = _integers(over if isinstance(over, Sequence) else (over,))
    if extent is None or not 1 <= len(extent) <= 3 or min(extent) < 0:
        raise ValueError(f"launch: over must be one to three integers (width, height, depth), got {over!r}")
    return _block_and_grid(*extent)


@functools.lru_cache(1024)
def _block_and_grid(width: int, height: int = 1, depth: int = 1) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """256 threads, as square as the extent lets them be: a batch of one is no reason for 15 idle rows of threads.

    Fewer where the extent is small, on the CPU they take time; but whole warps, on which kernels may rely.
    """
    deep = min(4, _power_of_two(depth))
    high = min(16 if deep == 1 else 8, _power_of_two(height))
    wide = min(256 // (high * deep), max(32 // (high * deep), _power_of_two(width)))
    block = (wide, high, deep)
    return block, (-(-width // block[0]), -(-height // high), -(-depth // deep))


def _power_of_two(number: int) -> int:
    """The smallest power of two that is not below `number`."""
    return 1 << max(number - 1, 0).bit_length()


def _size(size: Sequence[int], name: str, least: int, most: tuple[int, int, int]) -> tuple[int, int, int]:
    if type(size) is tuple and len(size) == 3:  # as it is nearly always, and then not worth a loop
        x, y, z = size
        are_integers = type(x) is type(y) is type(z) is int
        if are_integers and least <= x <= most[0] and least <= y <= most[1] and least <= z <= most[2]:
            return x, y, z
    numbers = _integers(size)
    if numbers is None or len(numbers) != 3 or not all(least <= n <= top for n, top in zip(numbers, most, strict=True)):
        raise ValueError(f"launchRaw: {name} must be three integers from {least} to {most}, got {size!r}")
    return numbers[0], numbers[1], numbers[2]


def _integers(values: Any) -> list[int] | None:
    """The elements of a sequence, of integers of any kind; None where it is something else."""
    try:
        return [operator.index(value) for value in values]
    except TypeError:
        return None
