"""Runs slangc, which slangtorch ships: a .slang file becomes CUDA text and a description of its kernels."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .cache import digest, find_or_build
from .errors import Diagnostic, ShaderError, parse_slangc_output
from .host_compiler import host_sources_digest
from .kernel_declarations import kernel_declarations
from .slang_service import compile_in_worker

_UNSHARED_TENSOR = re.compile(r"\bTensorView\s*<\s*(?:uint\d?|uint(?:16|32|64)_t\d?|vector\s*<\s*uint[\w, ]*>)\s*>")
_CONDITIONAL = re.compile(r"^#\s*(if\w*|endif)\b.*$", re.MULTILINE)
_FUNCTION = re.compile(r"^[^\n]*?\b([\w.]+)\([^\n]*\)\n\{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
_TENSOR_CALL = re.compile(r"make_tensor_view\([^\n]*?\"\w+\", torch::\w+, (?:true|false)\)")


@dataclass(frozen=True)
class SlangOutput:
    """What slangc made of one file: the CUDA program without slangc's own prelude, the parts of the torch binding
    that describe kernels, the files that took part, and the prelude."""

    cuda_text: str
    binding_text: str
    dependencies: tuple[str, ...]
    prelude: str


def slangc_path() -> str:
    """The slangc of `SLANGC_PATH`, else of the installed slangtorch, found without importing it."""
    if override := os.environ.get("SLANGC_PATH"):
        if shutil.which(override) is None:
            raise ShaderError(f"SLANGC_PATH names {override!r}, which is no program: unset it or correct it")
        return override
    spec = importlib.util.find_spec("slangtorch")
    if spec is None or not spec.submodule_search_locations:
        raise ShaderError("slangc was not found: install slangtorch (pip install 'slangtorch>=1.3.22,<1.4')")
    path = Path(spec.submodule_search_locations[0], "bin", "slangc.exe" if os.name == "nt" else "slangc")
    if not path.exists():
        raise ShaderError(f"slangc was not found at {path}: reinstall slangtorch")
    return str(path)


def slangc_version() -> str:
    return _version_of(slangc_path())


@functools.cache
def _version_of(slangc: str) -> str:
    return _run([slangc, "-v"]).stderr.strip()


def compile_slang(path: str, defines: Mapping[str, str], include_paths: Sequence[str]) -> SlangOutput:
    """Compile `path` to CUDA text and torch binding; raise `ShaderError` with slangc's diagnostics."""
    options = compiler_options(defines, include_paths)
    if compiled := compile_in_worker(slangc_path(), [path, "-target", "cuda", *options], _keep_binding):
        prelude, program = _split_prelude(compiled.text)
        return SlangOutput(program, compiled.binding, compiled.dependencies, prelude)
    with tempfile.TemporaryDirectory(prefix="slangrast-") as folder:
        cuda, binding, depfile = (os.path.join(folder, name) for name in ("program.cu", "binding.cpp", "deps"))
        commands = [
            [slangc_path(), path, "-target", "cuda", "-o", cuda, "-depfile", depfile, *options],
            [slangc_path(), path, "-target", "torch-binding", "-o", binding, *options],
        ]
        # Two runs, since one run of slangc writes one kind of text; side by side they cost the time of one.
        with ThreadPoolExecutor(2) as pool:
            for result in list(pool.map(_run, commands)):
                _raise_on_failure(path, result)
        if not (os.path.exists(cuda) and os.path.exists(binding)):
            raise ShaderError(f"{path} has no kernel: mark one with [AutoPyBindCUDA] and [CUDAKernel]")
        prelude, program = _split_prelude(Path(cuda).read_text())
        descriptions = _only_descriptions(Path(binding).read_text())
        return SlangOutput(program, descriptions, read_depfile(depfile), prelude)


def _keep_binding(cuda_text: str, parameters: dict[str, Any], make: Callable[[], str]) -> str:
    """What describes kernels in a torch binding, made once for all programs that declare the same kernels."""
    declarations = kernel_declarations(cuda_text, parameters)
    if declarations is None:
        return _only_descriptions(make())

    def build(folder: Path) -> list[str]:
        (folder / "binding.txt").write_text(_only_descriptions(make()))
        return []

    key = digest("binding", slangc_version(), declarations, host_sources_digest())
    return (find_or_build(key, (), build) / "binding.txt").read_text()


def compiler_options(defines: Mapping[str, str], include_paths: Sequence[str]) -> list[str]:
    """Macros and folders to search, as slangc takes them."""
    options = [f"-D{name}={value}" for name, value in defines.items()]
    return options + [part for include in include_paths for part in ("-I", include)]


def run_slangc(path: str, *arguments: str) -> None:
    """Run slangc once on `path`; raise `ShaderError` with its diagnostics."""
    _raise_on_failure(path, _run([slangc_path(), path, *arguments]))


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace")
    except OSError as error:
        raise ShaderError(f"slangc could not be started: {error}") from error


def _raise_on_failure(path: str, result: subprocess.CompletedProcess[str]) -> None:
    output = result.stdout + result.stderr
    diagnostics = parse_slangc_output(output)
    if result.returncode == 0 and not diagnostics:
        return
    if any(d.message.startswith("[E30029]") and not d.line for d in diagnostics):
        # The binding of a kernel without arguments holds an array of none.
        raise ShaderError(
            f"slangc could not compile {path}: a kernel must take at least one argument", diagnostics, output
        )
    if "unknown scalar type in allocTorchTensor" in output:
        # slangc stops here without naming the place; see its table of torch types.
        raise ShaderError(
            f"{path}: a kernel takes a TensorView of a type that torch tensors do not share with Slang; allowed are "
            "float, double, half, BFloat16, bool, int8_t, uint8_t, int16_t, int, int64_t and vectors of them "
            "(use int for uint: the bits are the same)",
            _lines_with(_UNSHARED_TENSOR, path, "torch has no such element type"),
            output,
        )
    if result.returncode == 0 or diagnostics:
        raise ShaderError(f"slangc could not compile {path}", diagnostics, output)
    how = f"crashed (signal {-result.returncode})" if result.returncode < 0 else f"ended with {result.returncode}"
    raise ShaderError(
        f"slangc {how} on {path} and did not say why; known to crash it: a function marked [AutoPyBindCUDA] without "
        "[CUDAKernel]",
        output=output,
    )


def _lines_with(pattern: re.Pattern[str], path: str, message: str) -> list[Diagnostic]:
    """A diagnostic for each place in `path` that the pattern finds, where slangc itself names none."""
    lines = Path(path).read_text(errors="replace").splitlines()
    return [
        Diagnostic(path, number, match.start() + 1, message)
        for number, line in enumerate(lines, 1)
        for match in pattern.finditer(line)
    ]


def _split_prelude(cuda_text: str) -> tuple[str, str]:
    """The block `#ifndef SLANG_CUDA_PRELUDE_H ... #endif`, and the program that follows it."""
    depth = 0
    for directive in _CONDITIONAL.finditer(cuda_text):
        depth += 1 if directive[1].startswith("if") else -1
        if depth == 0:
            return cuda_text[: directive.end()], cuda_text[directive.end() :]
    return "", cuda_text


def _only_descriptions(binding_text: str) -> str:
    """The functions that name kernels and types, and in each host function the calls that tell tensors' dtypes."""
    parts = []
    for name, body in _FUNCTION.findall(binding_text):
        if name.startswith(("__funcinfo__", "__typeinfo__")):
            parts.append(f"{name}()\n{{\n{body}}}\n")
        elif calls := _TENSOR_CALL.findall(body):
            parts.append("\n".join([f"{name}()", "{", *calls, "}\n"]))
    return "".join(parts)


def read_depfile(depfile: str) -> tuple[str, ...]:
    """Paths after `target: ` in a make-style dependency file, with its escapes undone."""
    paths: list[str] = []
    for line in Path(depfile).read_text().splitlines():
        _, _, listed = line.partition(": ")
        for token in re.findall(r"(?:\\.|\S)+", listed):
            paths.append(os.path.realpath(re.sub(r"\\(.)", r"\1", token).replace("$$", "$")))
    return tuple(dict.fromkeys(paths))
