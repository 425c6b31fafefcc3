"""Finds the C++ compiler of this machine and runs it on generated text."""

from __future__ import annotations

import functools
import os
import platform
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .cache import digest
from .errors import ShaderError, parse_host_compiler_output

HOST_FOLDER = Path(__file__).parent / "host"

# clang first: what it makes of the loops that Slang's autodiff writes is up to a fifth faster than what g++ does.
_CANDIDATES = ("clang++", "g++", "c++")
_COMMON_FLAGS = ("-std=c++17", "-O3", "-march=native", "-fPIC", "-shared", "-w", "-ffp-contract=fast")
# Integers that overflow wrap around on a GPU. In C++ that is undefined unless the compiler is told.
_GPU_FLAGS = ("-fwrapv",)
# Neither changes a value: they only let a vector instruction stand where a scalar one might set errno or trap.
_VECTOR_FLAGS = ("-fno-math-errno", "-fno-trapping-math")
# The parts of -ffast-math. The flag itself would also link code that, as soon as the library is loaded, makes the whole
# process flush denormal numbers to zero.
_FAST_MATH_FLAGS = ("-ffinite-math-only", "-fassociative-math", "-freciprocal-math", "-fno-signed-zeros")


@dataclass(frozen=True)
class HostCompiler:
    command: tuple[str, ...]
    identity: str

    def flags(self, *, fast_math: bool) -> tuple[str, ...]:
        return (*_COMMON_FLAGS, *_GPU_FLAGS, *_VECTOR_FLAGS, *(_FAST_MATH_FLAGS if fast_math else ()))

    def build(self, source: Path, library: Path, flags: tuple[str, ...], what: str) -> None:
        """Compile `source` to the shared library `library`; raise `ShaderError` in the words of the compiler."""
        command = [*self.command, *flags, f"-I{HOST_FOLDER}", str(source), "-o", str(library)]
        # Its messages in the language that they are parsed in; its temporary files where a kill does not leave them.
        environment = {**os.environ, "LC_ALL": "C", "TMPDIR": str(library.parent)}
        result = _run(command, environment)
        if result.returncode != 0:
            output = result.stdout + result.stderr
            ended = f" (ended by signal {-result.returncode}: out of memory?)" if result.returncode < 0 else ""
            raise ShaderError(
                f"the C++ compiler ({self.command[0]}) could not compile {what}{ended}",
                parse_host_compiler_output(output),
                output,
            )


def host_compiler() -> HostCompiler:
    """The compiler of `SLANGRAST_CXX`, else the first of clang++, g++ and c++ on the path."""
    return _find_host_compiler(os.environ.get("SLANGRAST_CXX", ""), os.environ.get("PATH", os.defpath))


@functools.cache
def _find_host_compiler(override: str, path: str) -> HostCompiler:
    if override:
        try:
            command = tuple(shlex.split(override))
        except ValueError as error:
            raise ShaderError(f"SLANGRAST_CXX must be a command, got {override!r}: {error}") from None
        if not command or shutil.which(command[0], path=path) is None:
            raise ShaderError(f"SLANGRAST_CXX names {override!r}, which is no program: unset it or correct it")
        return HostCompiler(command, _identity(command))
    for name in _CANDIDATES:
        if shutil.which(name, path=path):
            return HostCompiler((name,), _identity((name,)))
    raise ShaderError(
        "no C++ compiler was found, and kernels on the CPU are compiled by one: install g++ or clang++ "
        "(Debian, Ubuntu: apt install g++; Fedora: dnf install gcc-c++; macOS: xcode-select --install)"
    )


def _run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment)
    except OSError as error:
        raise ShaderError(f"the C++ compiler could not be started: {error}") from error


def _identity(command: tuple[str, ...]) -> str:
    """What tells one compiler on one kind of processor from another: -march=native makes the processor count."""
    return digest(*command, _run([*command, "--version"]).stdout, _processor())


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
    except OSError:
        return f"{platform.machine()} {platform.processor()}"


@functools.cache
def host_sources_digest() -> str:
    """A hash of what every entry of the cache is made with: the host's headers and thread pool, and this package's own
    compilation, so that an entry written by another version of it is never read."""
    files = sorted(path for path in HOST_FOLDER.parent.rglob("*") if path.suffix in (".h", ".cpp", ".py"))
    return digest(*(part for path in files for part in (path.name, path.read_bytes())))
