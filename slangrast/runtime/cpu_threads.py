"""Which CPU threads kernels take, and how many: those of torch."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import torch

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
    return torch.get_num_threads()
