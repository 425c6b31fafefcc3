"""Finds the C++ compiler of this machine and runs it on generated text."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .cache import cache_folder, digest
from .errors import ShaderError, parse_host_compiler_output

HOST_FOLDER = Path(__file__).parent / "host"
_LOG = logging.getLogger("slangrast")

# clang first: what it makes of the loops that Slang's autodiff writes is up to a fifth faster than what g++ does.
_CANDIDATES = ("clang++", "g++", "c++")
_COMMON_FLAGS = ("-std=c++17", "-O3", "-march=native", "-fPIC", "-shared", "-w", "-ffp-contract=fast")
# Integers that overflow wrap around on a GPU. In C++ that is undefined unless the compiler is told.
_GPU_FLAGS = ("-fwrapv",)
# The first two change no value: they only let a vector instruction stand where a scalar one might set errno or trap.
# The last changes the sign of a zero at most: with it, the many zeros that autodiff adds up cost nothing.
_VECTOR_FLAGS = ("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros")
# With this pass g++ 12 joins paths of selects to selects of bools, of which it makes no vectors: the reverse of a
# silhouette then takes six times as long, and nothing else less.
_GCC_FLAGS = ("-fno-tree-dominator-opts",)
# Clang puts arrays of pixels at multiples of 16 bytes. Their vectors then lie across two lines of the cache, or not, as
# the stack's address has it: with colour, half of all processes took a tenth to a half longer.
_CLANG_FLAGS = ("-mstackrealign",) if platform.machine() in ("x86_64", "AMD64") else ()
# The parts of -ffast-math. The flag itself would also link code that, as soon as the library is loaded, makes the whole
# process flush denormal numbers to zero.
_FAST_MATH_FLAGS = ("-ffinite-math-only", "-fassociative-math", "-freciprocal-math", "-fno-signed-zeros")
# What a debugger shows, and functions that it can step into. A division that has no result calls a function of ours.
_DEBUG_FLAGS = (
    "-Og", "-g", "-fno-omit-frame-pointer", "-fsanitize=integer-divide-by-zero",
    "-fno-sanitize-recover=integer-divide-by-zero",
)  # fmt: skip
# The stacks of fibers are not what hardened variants of longjmp expect.
_CHECKED_FLAGS = ("-DSLANGRAST_NO_FORCED_INLINE", "-U_FORTIFY_SOURCE")
_SANITIZER_FLAGS = (
    "-O1",
    "-g1",
    "-fno-omit-frame-pointer",
    "-DSLANGRAST_NO_FORCED_INLINE",
    "-fno-sanitize-recover=all",
)
# Where it does not optimise, zig stops a program at undefined behaviour, unless it is told not to.
_ZIG_FLAGS = ("-fno-sanitize=undefined",)


@dataclass(frozen=True)
class HostCompiler:
    command: tuple[str, ...]
    identity: str
    is_gcc: bool
    is_zig: bool = False  # the compiler of the package ziglang

    def flags(
        self, *, fast_math: bool, debug: bool = False, simt: bool = False, sanitizer: str = ""
    ) -> tuple[str, ...]:
        fast_math_flags = _FAST_MATH_FLAGS if fast_math and not debug else ()
        # The last level that is given counts.
        level = _DEBUG_FLAGS if debug else ("-O1",) if simt else ()
        checked = _CHECKED_FLAGS if debug or simt else ()
        sanitized = self.sanitizer_flags(sanitizer)
        own = _GCC_FLAGS if self.is_gcc else _CLANG_FLAGS
        return (*_COMMON_FLAGS, *_GPU_FLAGS, *_VECTOR_FLAGS, *own, *fast_math_flags, *level, *checked, *sanitized)

    def sanitizer_flags(self, sanitizer: str) -> tuple[str, ...]:
        if not sanitizer:
            return ()
        # A finding of the undefined-behaviour sanitizer ends the process, as one of the others does.
        is_clang = "clang" in Path(self.command[0]).name
        return (*_SANITIZER_FLAGS, f"-fsanitize={sanitizer}", *(["-shared-libsan"] if is_clang else []))

    def build(self, source: Path, library: Path, flags: tuple[str, ...], what: str) -> None:
        """Compile `source` to the shared library `library`; raise `ShaderError` in the words of the compiler."""
        own_flags = _ZIG_FLAGS if self.is_zig else ()
        command = [*self.command, *own_flags, *flags, f"-I{HOST_FOLDER}", str(source), "-o", str(library)]
        # Its messages in the language that they are parsed in; its temporary files where a kill does not leave them.
        environment = {**os.environ, "LC_ALL": "C", "TMPDIR": str(library.parent)}
        with _zig_folders(library.parent, self.is_zig) as folders:
            result = _run(command, {**environment, **folders})
        if result.returncode != 0:
            output = result.stdout + result.stderr
            ended = f" (ended by signal {-result.returncode}: out of memory?)" if result.returncode < 0 else ""
            raise ShaderError(
                f"the C++ compiler ({self.command[0]}) could not compile {what}{ended}",
                parse_host_compiler_output(output),
                output,
            )


def host_compiler() -> HostCompiler:
    """The compiler of `SLANGRAST_CXX`, else the first of clang++, g++ and c++ on the path, else ziglang's."""
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
        return _compiler(command)
    if compiler := next(compilers_found(path), None):
        return compiler
    raise ShaderError(
        "no C++ compiler was found, and kernels on the CPU are compiled by one: install g++ or clang++ "
        "(Debian, Ubuntu: apt install g++; Fedora: dnf install gcc-c++; macOS: xcode-select --install), "
        "or one that pip brings: pip install 'slangrast[toolchain]'"
    )


def compilers_found(path: str | None = None) -> Iterator[HostCompiler]:
    """The compilers on the path, else on `PATH`, the preferred one first and ziglang's last."""
    for name in _CANDIDATES:
        if shutil.which(name, path=path):
            yield _compiler((name,))
    if zig := _zig_program():
        yield _compiler((zig, "c++"), is_zig=True)


def _zig_program() -> str | None:
    """The compiler that the package ziglang brings, which needs nothing else of the machine. It is not imported, since
    to import it is to run it."""
    spec = importlib.util.find_spec("ziglang")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    return next(filter(None, (shutil.which("zig", path=folder) for folder in folders)), None)


@contextlib.contextmanager
def _zig_folders(beside: Path, is_zig: bool) -> Iterator[dict[str, str]]:
    """Where zig keeps its C++ library, which it builds once: in our cache, for a home may be read-only. And where it
    keeps the parts of one build: nowhere, for the cache of entries has the whole."""
    if not is_zig:
        yield {}
        return
    kept = os.environ.get("ZIG_GLOBAL_CACHE_DIR") or str(cache_folder() / "zig")
    if not os.path.isdir(kept):
        _LOG.warning(
            "slangrast: no C++ compiler on PATH, so ziglang's is used. It builds its C++ library first, which takes "
            "about a minute, once."
        )
    with tempfile.TemporaryDirectory(dir=beside, prefix="zig-", ignore_cleanup_errors=True) as parts:
        yield {"ZIG_GLOBAL_CACHE_DIR": kept, "ZIG_LOCAL_CACHE_DIR": parts}


def _run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment)
    except OSError as error:
        raise ShaderError(f"the C++ compiler could not be started: {error}") from error


def _compiler(command: tuple[str, ...], is_zig: bool = False) -> HostCompiler:
    version = version_text(command)
    # What tells one compiler on one kind of processor from another: -march=native makes the processor count.
    identity = digest(*command, version, _processor())
    return HostCompiler(command, identity, is_gcc="Free Software Foundation" in version, is_zig=is_zig)


def version_text(command: Sequence[str]) -> str:
    """What a compiler says of itself."""
    with tempfile.TemporaryDirectory(prefix="slangrast-") as folder:  # zig would make one in the user's home
        return _run([*command, "--version"], {**os.environ, "ZIG_GLOBAL_CACHE_DIR": folder}).stdout


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
