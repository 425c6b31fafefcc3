"""Address, undefined-behaviour and thread sanitizers for the host code of kernels.

`SLANGRAST_SANITIZE=address` (or `undefined`, or `thread`) in the environment has every module that is then loaded for
the CPU checked by that sanitizer, and the pool of threads with it. A finding is printed and ends the process. Two of
them must be in the process before Python is, by `LD_PRELOAD`; the error that asks for it says how.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from .errors import ShaderError

SANITIZERS = ("address", "undefined", "thread")
_VARIABLE = "SLANGRAST_SANITIZE"
# What only a process with the runtime in it has, how g++ and clang++ call its library, and what it should be told.
_RUNTIMES = {
    "address": ("__asan_init", "libasan.so", "libclang_rt.asan-{machine}.so", "ASAN_OPTIONS=detect_leaks=0"),
    "thread": ("__tsan_init", "libtsan.so", "libclang_rt.tsan-{machine}.so", ""),
    "undefined": ("", "libubsan.so", "libclang_rt.ubsan_standalone-{machine}.so", ""),
}


def sanitizer_of_environment() -> str:
    """What `SLANGRAST_SANITIZE` asks for; empty where it asks for nothing."""
    name = os.environ.get(_VARIABLE, "")
    if name and name not in SANITIZERS:
        raise ValueError(f"{_VARIABLE} must be one of {', '.join(SANITIZERS)} or empty, got {name!r}")
    return name


def preload(sanitizer: str, command: Sequence[str]) -> list[str]:
    """The environment variables, as `NAME=value`, that a process needs for modules built by `command`."""
    symbol, *_, options = _RUNTIMES[sanitizer]
    library = [f"LD_PRELOAD={_runtime(sanitizer, command)}"] if symbol else []
    return [*library, *([options] if options else [])]


def require_runtime(sanitizer: str, command: Sequence[str]) -> None:
    """Raise a `ShaderError` where this process does not have the runtime that a module needs: loading it would end the
    process."""
    symbol = _RUNTIMES[sanitizer][0]
    if symbol and not hasattr(ctypes.CDLL(None), symbol):
        settings = " ".join(preload(sanitizer, command))
        raise ShaderError(
            f"the {sanitizer} sanitizer must be in the process before Python is: start it as "
            f"{_VARIABLE}={sanitizer} {settings} python ..."
        )
    if not symbol and "clang" in Path(command[0]).name:
        ctypes.CDLL(_runtime(sanitizer, command), mode=ctypes.RTLD_GLOBAL)  # clang++ names it without a folder


def _runtime(sanitizer: str, command: Sequence[str]) -> str:
    """The path of a sanitizer's shared library."""
    gcc_name, clang_name = _RUNTIMES[sanitizer][1:3]
    name = clang_name.format(machine=os.uname().machine) if "clang" in Path(command[0]).name else gcc_name
    found = subprocess.run([*command, f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()
    if not os.path.isabs(found) or not os.path.exists(found):
        raise ShaderError(
            f"the runtime of the {sanitizer} sanitizer ({name}) is not installed with {command[0]}: install it "
            "(Debian, Ubuntu: apt install libclang-rt-dev for clang++; g++ brings its own), or set SLANGRAST_CXX=g++"
        )
    return os.path.realpath(found)
