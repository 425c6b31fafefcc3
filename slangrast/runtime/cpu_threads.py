"""Which CPU threads kernels take, and how many: those of torch."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import torch

_IMPORTED_IN = os.getpid()
_FORKED_AND_NO_NEW_PROGRAM = 0x40  # PF_FORKNOEXEC of Linux


def torch_team() -> ctypes.c_void_p | None:
    """The function that runs work on all of torch's OpenMP threads, `GOMP_parallel`; None where torch has none."""
    if _is_forked():
        return None  # its copy of the runtime may wait for threads that only the parent has
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        return ctypes.cast(library.GOMP_parallel, ctypes.c_void_p)  # of the copy that this library uses, among several
    except (OSError, AttributeError):
        return None


def _is_forked() -> bool:
    """Whether this process is a copy of another: since the import of this file, or, as Linux tells, before it too."""
    if os.getpid() != _IMPORTED_IN:
        return True
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        return bool(int(fields[6]) & _FORKED_AND_NO_NEW_PROGRAM)
    except (OSError, ValueError, IndexError):
        return False


def kernel_threads() -> int:
    """The threads that a launch from here shares its blocks among."""
    return torch.get_num_threads()
