"""What is installed: Python, torch, GPUs, slangc, compilers, the CUDA toolkit, and the cache folder."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

import slangrast
from slangrast.runtime.cache import cache_folder
from slangrast.runtime.errors import ShaderError
from slangrast.runtime.host_compiler import HostCompiler, compilers_found, host_compiler, version_text
from slangrast.runtime.slang_compiler import slangc_path

from .finding import ABSENT, MACHINE, OK, PROBLEM, Finding

TOOLCHAIN = "pip install 'slangrast[toolchain]'"
_REINSTALL_SLANGC = "pip install --force-reinstall --no-deps 'slangtorch>=1.3.22,<1.4'"
# A compiler that is there may still lack its library's headers, its linker or its threads.
_PROGRAM = "#include <mutex>\n#include <thread>\nint main_thread() { return std::thread([] {}).joinable(); }\n"
_PROGRAM_FLAGS = ("-std=c++17", "-O1", "-fPIC", "-shared", "-pthread")
_GPU_FILE = Path("/dev/nvidia0")

_found = partial(Finding, MACHINE)


def look_at_python() -> list[Finding]:
    package = Path(slangrast.__file__).parent
    system = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    return [
        _found("slangrast", OK, f"{slangrast.__version__}, {package}"),
        _found("Python", OK, f"{platform.python_version()}, {sys.executable}, {system}"),
    ]


def look_at_torch() -> list[Finding]:
    if torch.version.cuda is None:
        findings = [_found("torch", OK, f"{torch.__version__}, built without CUDA")]
        if _GPU_FILE.exists():
            text = "there is one, but torch is built without CUDA, so that all runs on the CPU"
            return [*findings, _found("GPU", PROBLEM, text, "pip install --force-reinstall torch")]
        return [*findings, _found("GPU", ABSENT, "none that torch could use: all runs on the CPU")]
    findings = [_found("torch", OK, f"{torch.__version__}, built for CUDA {torch.version.cuda}")]
    if torch.cuda.is_available():
        return [*findings, *(_found("GPU", OK, _describe_gpu(index)) for index in range(torch.cuda.device_count()))]
    if _GPU_FILE.exists():
        text = f"there is one, but torch cannot use it: {_why_no_cuda()}"
        return [*findings, _found("GPU", PROBLEM, text, "nvidia-smi   # names the driver: it must suit torch's CUDA")]
    return [*findings, _found("GPU", ABSENT, "none: all runs on the CPU")]


def _describe_gpu(index: int) -> str:
    properties = torch.cuda.get_device_properties(index)
    memory = f"{properties.total_memory / 2**30:.0f} GiB"
    return f"{properties.name}, sm_{properties.major}{properties.minor}, {memory}"


def _why_no_cuda() -> str:
    try:
        torch.cuda.init()
    except Exception as error:
        return _first_line(error)
    return "it does not say why"


def look_at_slangc() -> list[Finding]:
    override = "SLANGC_PATH" in os.environ
    fix = "unset SLANGC_PATH" if override else _REINSTALL_SLANGC
    try:
        path = slangc_path()
        result = _run([path, "-v"])
    except (ShaderError, OSError, subprocess.SubprocessError) as error:
        return [_found("slangc", PROBLEM, _first_line(error), fix)]
    version = (result.stderr + result.stdout).strip()
    if result.returncode != 0 or not re.match(r"v?\d", version):
        return [_found("slangc", PROBLEM, f"{path} -v ended with {result.returncode} and said {version[:80]!r}", fix)]
    return [_found("slangc", OK, f"{version.splitlines()[0]}, {path}{' (SLANGC_PATH)' if override else ''}")]


def look_at_compilers() -> list[Finding]:
    """Each C++ compiler with what it can do. Only the one that is used is a problem where it does not work."""
    override = os.environ.get("SLANGRAST_CXX")
    try:
        used = host_compiler()
    except ShaderError as error:
        fix = "unset SLANGRAST_CXX" if override else TOOLCHAIN
        return [_found("C++ compiler", PROBLEM, _first_line(error).partition(": install ")[0], fix)]
    complaint = _complaint(used)
    others = [] if override and complaint is None else _alternatives(used)
    if complaint is None:
        findings = [_found("C++ compiler", OK, f"{_describe_compiler(used)}{' (SLANGRAST_CXX)' if override else ''}")]
    else:
        working = next((other for other in others if _complaint(other) is None), None)
        fix = TOOLCHAIN
        if override:
            fix = "unset SLANGRAST_CXX"
        elif working is not None:
            fix = f"export SLANGRAST_CXX={shlex.quote(shlex.join(working.command))}"
        findings = [_found("C++ compiler", PROBLEM, f"{' '.join(used.command)} does not work: {complaint}", fix)]
    for other in others:
        if not other.is_zig:
            findings.append(_found("", OK, f"also found: {_describe_compiler(other)}"))
    return findings


def _alternatives(used: HostCompiler) -> list[HostCompiler]:
    """The other compilers there are, each once: c++ is mostly another name of one of them."""
    programs = {_program(used): used}
    for compiler in compilers_found():
        programs.setdefault(_program(compiler), compiler)
    return [compiler for compiler in programs.values() if compiler is not used]


def _program(compiler: HostCompiler) -> str:
    return os.path.realpath(shutil.which(compiler.command[0]) or compiler.command[0])


def _complaint(compiler: HostCompiler) -> str | None:
    """Why a compiler cannot make a library of a few lines of C++, or None."""
    with tempfile.TemporaryDirectory(prefix="slangrast-") as folder:
        source, library = Path(folder, "program.cpp"), Path(folder, "program.so")
        source.write_text(_PROGRAM)
        try:
            compiler.build(source, library, _PROGRAM_FLAGS, "a program of three lines")
        except (ShaderError, OSError) as error:
            diagnostics = getattr(error, "diagnostics", None)
            return diagnostics[0].message if diagnostics else _last_line(error)
        return None if library.exists() else "it writes no library"


def _describe_compiler(compiler: HostCompiler) -> str:
    text = version_text(compiler.command)
    name = "ziglang: zig c++" if compiler.is_zig else " ".join(compiler.command)
    return f"{name}, {text.splitlines()[0] if text else 'of no known version'}"


def look_at_cuda_tools() -> list[Finding]:
    return [_nvcc(), _ninja(), _nvrtc()]


def _nvcc() -> Finding:
    home = os.environ.get("CUDA_HOME")
    path = shutil.which("nvcc") or (shutil.which("nvcc", path=os.path.join(home, "bin")) if home else None)
    if path is None:
        return _found("nvcc", ABSENT, "not found; only the engine 'cuda' needs it")
    release = re.search(r"release ([\d.]+)", _run([path, "--version"]).stdout)
    return _found("nvcc", OK, f"{release[1] if release else 'of no known version'}, {path}")


def _ninja() -> Finding:
    path = shutil.which("ninja") or shutil.which("ninja", path=str(Path(sys.executable).parent))
    if path is None:
        return _found("ninja", ABSENT, "not found; only the engine 'cuda' needs it")
    return _found("ninja", OK, f"{_run([path, '--version']).stdout.strip()}, {path}")


def _nvrtc() -> Finding:
    try:
        version = importlib.metadata.version("cuda-bindings")
    except importlib.metadata.PackageNotFoundError:
        return _found("NVRTC", ABSENT, "cuda-bindings is not installed; only the engine 'nvrtc' needs it")
    return _found("NVRTC", OK, f"cuda-bindings {version}")


def look_at_cache() -> list[Finding]:
    override = os.environ.get("SLANGRAST_CACHE")
    fix = "unset SLANGRAST_CACHE" if override else f"export SLANGRAST_CACHE={tempfile.gettempdir()}/slangrast"
    try:
        folder = cache_folder()
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return [_found("cache", PROBLEM, _first_line(error), fix)]
    entries = sum(1 for _ in (folder / "entries").glob("*"))
    return [_found("cache", OK, f"{folder}, writable, {entries} modules, {_size(folder) / 2**20:.1f} MiB")]


def _size(folder: Path) -> int:
    """The bytes of all files. Another process may be at work in the cache: what goes meanwhile does not count."""
    size = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                size += os.lstat(os.path.join(place, name)).st_size
    return size


LOOKS: dict[str, Callable[[], list[Finding]]] = {
    "Python": look_at_python,
    "torch": look_at_torch,
    "slangc": look_at_slangc,
    "C++ compilers": look_at_compilers,
    "CUDA tools": look_at_cuda_tools,
    "cache": look_at_cache,
}


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=60)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _last_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[-1]
