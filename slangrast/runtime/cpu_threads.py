"""Which CPU threads kernels take: torch's, and as many as torch does, or did before it was told to keep to one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_threads: ContextVar[int | None] = ContextVar("slangrast_cpu_threads", default=None)
_IMPORTED_BY = os.getpid()


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


def is_forked_child() -> bool:
    """Whether this process was forked after slangrast was imported: it has no threads but this one, whatever OpenMP
    believes."""
    return os.getpid() != _IMPORTED_BY
