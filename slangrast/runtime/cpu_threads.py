"""Which CPU threads kernels take: those of torch; and how many: as torch does, or did before it was told to keep to
one."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import torch

_threads: ContextVar[int | None] = ContextVar("slangrast_cpu_threads", default=None)

_IMPORTED_IN = os.getpid()


def torch_team() -> ctypes.c_void_p | None:
    """The function that runs work on all of torch's OpenMP threads, `GOMP_parallel`; None where torch has none."""
    if os.getpid() != _IMPORTED_IN:
        return None  # a forked child: its copy of the runtime waits for threads that only the parent has
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        return ctypes.cast(library.GOMP_parallel, ctypes.c_void_p)  # of the copy that this library uses, among several
    except (OSError, AttributeError):
        return None


def kernel_threads() -> int:
    """The threads that a launch from here shares its blocks among."""
    return _threads.get() or torch.get_num_threads()


@contextmanager
def torch_on_one_thread() -> Iterator[None]:
    """Within it torch's own operators run on this thread alone, and kernels on as many threads as before.

    After each operator that torch shares out, its other threads wait for the next one in a loop that keeps a core busy
    for milliseconds: the core that the next kernel wants. In an optimisation that costs several times what it saves.
    """
    before = torch.get_num_threads()
    token = _threads.set(kernel_threads())
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        _threads.reset(token)
