"""Runs slangc, which slangtorch ships: a .slang file becomes CUDA text and a description of its kernels."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from .errors import ShaderError, parse_slangc_output

_CONDITIONAL = re.compile(r"^#\s*(if\w*|endif)\b.*$", re.MULTILINE)
_DESCRIPTION = re.compile(r"^.*__(?:func|type)info__\w+\(\)\n\{.*?\n\}", re.MULTILINE | re.DOTALL)
_TENSOR_CALL = re.compile(r"make_tensor_view\([^\n]*?\"\w+\", torch::\w+, (?:true|false)\)")


@dataclass(frozen=True)
class SlangOutput:
    """What slangc made of one file: the CUDA program without slangc's own prelude, the parts of the torch binding
    that describe kernels, and the files that took part."""

    cuda_text: str
    binding_text: str
    dependencies: tuple[str, ...]


@functools.cache
def slangc_path() -> str:
    """The slangc of `SLANGC_PATH`, else of the installed slangtorch, found without importing it."""
    if override := os.environ.get("SLANGC_PATH"):
        if not os.path.exists(override):
            raise ShaderError(f"SLANGC_PATH names {override}, which does not exist: unset it or correct it")
        return override
    spec = importlib.util.find_spec("slangtorch")
    if spec is None or not spec.submodule_search_locations:
        raise ShaderError("slangc was not found: install slangtorch (pip install 'slangtorch>=1.3.22,<1.4')")
    name = "slangc.exe" if os.name == "nt" else "slangc"
    path = Path(spec.submodule_search_locations[0], "bin", name)
    if not path.exists():
        raise ShaderError(f"slangc was not found at {path}: reinstall slangtorch")
    return str(path)


@functools.cache
def slangc_version() -> str:
    return subprocess.run([slangc_path(), "-v"], capture_output=True, text=True, check=False).stderr.strip()


def compile_slang(path: str, defines: Mapping[str, str], include_paths: Sequence[str]) -> SlangOutput:
    """Compile `path` to CUDA text and torch binding; raise `ShaderError` with slangc's diagnostics."""
    with tempfile.TemporaryDirectory(prefix="slangrast-") as folder:
        cuda, binding, depfile = (os.path.join(folder, name) for name in ("program.cu", "binding.cpp", "deps"))
        options = [f"-D{name}={value}" for name, value in defines.items()]
        options += [part for include in include_paths for part in ("-I", include)]
        commands = [
            [slangc_path(), path, "-target", "cuda", "-o", cuda, "-depfile", depfile, *options],
            [slangc_path(), path, "-target", "torch-binding", "-o", binding, *options],
        ]
        # Two runs, since one run of slangc writes one kind of text; side by side they cost the time of one.
        with ThreadPoolExecutor(2) as pool:
            for result in pool.map(functools.partial(subprocess.run, capture_output=True, text=True), commands):
                _raise_on_failure(path, result)
        if not (os.path.exists(cuda) and os.path.exists(binding)):
            raise ShaderError(f"{path} has no kernel: mark one with [AutoPyBindCUDA] and [CUDAKernel]")
        return SlangOutput(
            _without_prelude(Path(cuda).read_text()),
            _only_descriptions(Path(binding).read_text()),
            _read_depfile(depfile),
        )


def _raise_on_failure(path: str, result: subprocess.CompletedProcess[str]) -> None:
    output = result.stdout + result.stderr
    diagnostics = parse_slangc_output(output)
    if result.returncode == 0 and not diagnostics:
        return
    if "unknown scalar type in allocTorchTensor" in output:
        # slangc stops here without naming the place; see its table of torch types.
        raise ShaderError(
            f"{path}: a kernel takes a TensorView of a type that torch tensors do not share with Slang; allowed are "
            "float, double, half, BFloat16, bool, int8_t, uint8_t, int16_t, int, int64_t and vectors of them "
            "(use int for uint: the bits are the same)",
            output=output,
        )
    raise ShaderError(f"slangc could not compile {path}", diagnostics, output)


def _without_prelude(cuda_text: str) -> str:
    """The program that follows the block `#ifndef SLANG_CUDA_PRELUDE_H ... #endif`."""
    depth = 0
    for directive in _CONDITIONAL.finditer(cuda_text):
        depth += 1 if directive[1].startswith("if") else -1
        if depth == 0:
            return cuda_text[directive.end() :]
    return cuda_text


def _only_descriptions(binding_text: str) -> str:
    """The functions that name kernels and types, and the calls that tell tensors' dtypes: 1 % of the text."""
    parts = _DESCRIPTION.findall(binding_text) + _TENSOR_CALL.findall(binding_text)
    return "\n".join(dict.fromkeys(parts)) + "\n"


def _read_depfile(depfile: str) -> tuple[str, ...]:
    """Paths after `target: ` in a make-style dependency file, with its escapes undone."""
    paths: list[str] = []
    for line in Path(depfile).read_text().splitlines():
        _, _, listed = line.partition(": ")
        for token in listed.replace("\\ ", "\0").split():
            paths.append(os.path.realpath(token.replace("\0", " ").replace("\\:", ":")))
    return tuple(dict.fromkeys(paths))
