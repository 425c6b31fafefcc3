"""Finding faults: run the rasterizers' kernels with every access checked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .runtime.checks import Checks, current_checks


@contextmanager
def checked(*, simt: bool = False) -> Iterator[None]:
    """Within it, what the rasterizers run on the CPU is checked, as `load_module(..., debug=True)` checks a kernel.

    An index out of range, a NaN that is stored or added to a gradient, and an output that is never written raise an
    exception with the line of the .slang file. A backward pass is checked where its forward pass was.

    Args:
        simt: run a block's threads together as on a GPU, in warps of 32 lanes. Slow.
    """
    token = current_checks.set(Checks(debug=True, simt=bool(simt)))
    try:
        yield
    finally:
        current_checks.reset(token)
