"""Address, undefined-behaviour and thread sanitizers for the host code of kernels.

`SLANGRAST_SANITIZE=address` (or `undefined`, `thread`, `address,undefined`) in the environment has every module that is
then loaded for the CPU checked by them, and the pool of threads with it. A finding is printed and ends the process. All
but `undefined` must be in the process before Python is, by `LD_PRELOAD`; the error that asks for it says how.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import ShaderError

_VARIABLE = "SLANGRAST_SANITIZE"


@dataclass(frozen=True)
class _Runtime:
    """The library that a sanitizer's findings come from."""

    symbol: str  # what a process has that has it
    of_gcc: str
    of_clang: str
    preloaded: bool  # it watches memory or threads from the start


_RUNTIMES = {
    "address": _Runtime("__asan_init", "libasan.so", "libclang_rt.asan-{machine}.so", True),
    "undefined": _Runtime(
        "__ubsan_handle_type_mismatch_v1", "libubsan.so", "libclang_rt.ubsan_standalone-{machine}.so", False
    ),
    "thread": _Runtime("__tsan_init", "libtsan.so", "libclang_rt.tsan-{machine}.so", True),
}
_ALLOWED = ("address", "undefined", "thread", "address,undefined")


def sanitizer_of_environment() -> str:
    """What `SLANGRAST_SANITIZE` asks for; empty where it asks for nothing."""
    given = os.environ.get(_VARIABLE, "")
    sanitizer = ",".join(sorted(filter(None, given.replace(" ", "").split(","))))
    if sanitizer and sanitizer not in _ALLOWED:
        allowed = ", ".join(map(repr, _ALLOWED))
        raise ValueError(f"{_VARIABLE} must be one of {allowed} or empty, got {given!r}")
    return sanitizer


def preloads(sanitizer: str, command: Sequence[str]) -> dict[str, str]:
    """The environment variables that a process needs in order to load what the compiler `command` instruments."""
    libraries = [_library(_RUNTIMES[name], command) for name in sanitizer.split(",") if _RUNTIMES[name].preloaded]
    # Python keeps much until it ends; that is no leak of a kernel. And the first race is enough.
    options = {"address": ("ASAN_OPTIONS", "detect_leaks=0"), "thread": ("TSAN_OPTIONS", "halt_on_error=1")}
    needed = [("LD_PRELOAD", ":".join(libraries))] if libraries else []
    return dict(needed + [option for name, option in options.items() if name in sanitizer])


def require_runtime(sanitizer: str, command: Sequence[str]) -> None:
    """See that this process has the runtime of `sanitizer`.

    Raises:
        ShaderError: it must be preloaded and is not, or is not installed. To load a module would end the process.
    """
    missing = [name for name in sanitizer.split(",") if not hasattr(ctypes.CDLL(None), _RUNTIMES[name].symbol)]
    if any(_RUNTIMES[name].preloaded for name in missing):
        settings = " ".join(f"{name}={value}" for name, value in preloads(sanitizer, command).items())
        raise ShaderError(
            f"the runtime of {_VARIABLE}={sanitizer} must be in the process before Python is: start it as "
            f"{_VARIABLE}={sanitizer} {settings} python ... (where that crashes, as with some versions of clang++ and "
            "the thread sanitizer, set SLANGRAST_CXX=g++)"
        )
    for name in missing:  # an instrumented library names it without saying where it is
        ctypes.CDLL(_library(_RUNTIMES[name], command), mode=ctypes.RTLD_GLOBAL)
    os.environ.pop("LD_PRELOAD", None)  # the compilers that this process starts do without


def _library(runtime: _Runtime, command: Sequence[str]) -> str:
    """The path of a sanitizer's shared library."""
    is_clang = "clang" in Path(command[0]).name
    name = runtime.of_clang.format(machine=os.uname().machine) if is_clang else runtime.of_gcc
    found = subprocess.run([*command, f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()
    if not os.path.isabs(found) or not os.path.exists(found):
        raise ShaderError(
            f"{name}, which {_VARIABLE} needs, is not installed with {command[0]}: install it (Debian, Ubuntu: apt "
            "install libclang-rt-dev for clang++; g++ brings its own), or set SLANGRAST_CXX=g++"
        )
    return os.path.realpath(found)
