"""Finds the C++ compiler of this machine and runs it on generated text."""

from __future__ import annotations

import functools
import os
import platform
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .cache import digest
from .errors import ShaderError, parse_host_compiler_output

HOST_FOLDER = Path(__file__).parent / "host"

# clang first: it vectorises the loops that Slang's autodiff writes, g++ only some of them.
_CANDIDATES = ("clang++", "g++", "c++")
_COMMON_FLAGS = ("-std=c++17", "-O3", "-march=native", "-fPIC", "-shared", "-w", "-ffp-contract=fast")
# Neither changes a value: they only let a vector instruction stand where a scalar one might set errno or trap.
_VECTOR_FLAGS = ("-fno-math-errno", "-fno-trapping-math")


@dataclass(frozen=True)
class HostCompiler:
    command: tuple[str, ...]
    identity: str

    def flags(self, *, fast_math: bool) -> tuple[str, ...]:
        return (*_COMMON_FLAGS, *_VECTOR_FLAGS, *(("-ffast-math",) if fast_math else ()))

    def build(self, source: Path, library: Path, flags: tuple[str, ...], what: str) -> None:
        """Compile `source` to the shared library `library`; raise `ShaderError` in the words of the compiler."""
        command = [*self.command, *flags, f"-I{HOST_FOLDER}", str(source), "-o", str(library)]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode != 0:
            output = result.stdout + result.stderr
            raise ShaderError(
                f"the C++ compiler ({self.command[0]}) could not compile {what}",
                parse_host_compiler_output(output),
                output,
            )


@functools.cache
def host_compiler() -> HostCompiler:
    """The compiler of `SLANGRAST_CXX`, else the first of clang++, g++ and c++ on the path."""
    if override := os.environ.get("SLANGRAST_CXX"):
        command = tuple(shlex.split(override))
        if not command or shutil.which(command[0]) is None:
            raise ShaderError(f"SLANGRAST_CXX names {override!r}, which is not on the path: unset it or correct it")
        return HostCompiler(command, _identity(command))
    for name in _CANDIDATES:
        if shutil.which(name):
            return HostCompiler((name,), _identity((name,)))
    raise ShaderError(
        "no C++ compiler was found, and kernels on the CPU are compiled by one: install g++ or clang++ "
        "(Debian, Ubuntu: apt install g++; Fedora: dnf install gcc-c++; macOS: xcode-select --install)"
    )


def _identity(command: tuple[str, ...]) -> str:
    """What tells one compiler on one kind of processor from another: -march=native makes the processor count."""
    version = subprocess.run([*command, "--version"], capture_output=True, text=True)
    return digest(*command, version.stdout, _processor())


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
    except OSError:
        return f"{platform.machine()} {platform.processor()}"


@functools.cache
def host_sources_digest() -> str:
    """A hash of the host headers and of the thread pool, which are part of every compiled module."""
    files = sorted(path for path in HOST_FOLDER.rglob("*") if path.suffix in (".h", ".cpp"))
    return digest(*(part for path in files for part in (path.name, path.read_bytes())))
