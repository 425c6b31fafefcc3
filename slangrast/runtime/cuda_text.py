"""What must be known of slangc's CUDA text, and done to it, before a C++ compiler sees it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy

from .errors import Diagnostic, ShaderError

_ONE_AFTER_ANOTHER = (
    "its threads run one after another. Load this shader with engine='simt', in which a block's threads run together, "
    "or with device='cuda'"
)
_REFUSED = {  # pattern: what it is, and why the CPU engine cannot run it
    r"\b__shared__\b": ("groupshared memory", _ONE_AFTER_ANOTHER),
    r"\b__syncthreads\b|\b__syncwarp\b": ("barriers between threads", _ONE_AFTER_ANOTHER),
    r"\b(?:CUtexObject|CUsurfObject|cudaTextureObject_t|cudaSurfaceObject_t)\b": (
        "texture objects",
        "they exist on a GPU only. Read a TensorView instead",
    ),
    r"\bSLANG_globalParams\b": (
        "a global shader parameter",
        "nothing sets it from Python, on CUDA neither. Make it an argument of the kernel",
    ),
    r"\basm\s*(?:volatile)?\s*\(": (
        "inline assembly",
        "it is written for a GPU. Load this shader with device='cuda', or write it in Slang",
    ),
}


def refuse_what_needs_a_gpu(program: str, *, simt: bool) -> None:
    """Raise a `ShaderError` for a program that would not compile for the CPU, or would compute something else there."""
    for pattern, (what, why) in _REFUSED.items():
        if simt and why == _ONE_AFTER_ANOTHER:
            continue
        if found := list(re.finditer(pattern, program)):
            # Where a global is used, for its declaration may have no line.
            found += re.finditer(r"\bglobalParams_\d+\b", program)
            places = (_shader_place(program, match.start(), f"{what} cannot be used on the CPU") for match in found)
            place = next(filter(None, places), None)
            raise ShaderError(f"the CPU engine cannot run a kernel that uses {what}: {why}", [place] if place else [])


def _shader_place(program: str, position: int, message: str) -> Diagnostic | None:
    """The line of the user's shader that comes last before `position`, by the #line marks of slangc."""
    place, file = None, ""
    for number, name in re.findall(r'^#line (\d+)(?: "(.*)")?$', program[:position], re.MULTILINE):
        file = name or file
        if not file.endswith(".meta.slang"):  # slangc's own library
            place = Diagnostic(file, int(number), 0, message)
    return place


_INLINE_CUDA = re.compile(r"__intrinsic_asm|__requirePrelude|__target_intrinsic|__requireCUDA\w*")
_LOST_NAME = re.compile(r"'_S\d+'")  # quoted by a C++ compiler; slangc numbers its temporaries like this


def explain_compile_error(error: ShaderError, dependencies: Iterable[str]) -> None:
    """Say in `error` what a C++ compiler cannot: that the text it refused came word for word from the shader's author,
    or that slangc wrote it wrong."""
    places = [
        Diagnostic(path, number, match.start() + 1, "inline CUDA")
        for path in dependencies
        for number, line in enumerate(_read(path).splitlines(), 1)
        if (match := _INLINE_CUDA.search(line))
    ]
    if places:
        error.summary += (
            "; it holds inline CUDA, of which the CPU engine can run only what is C++ as well: load it with "
            "device='cuda', or write it in Slang"
        )
        error.diagnostics += places
    if any(_LOST_NAME.search(diagnostic.message) for diagnostic in error.diagnostics):
        error.summary += (
            "; slangc left out a variable of its own, as it may in the derivative of a loop, on CUDA too: let the loop "
            "count upwards from a constant, or write its derivative with [BackwardDerivative]"
        )


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


_FLOAT_LITERAL = re.compile(r"(?<![\w.])(\d+\.\d*(?:[eE][-+]?\d+)?)f\b")
_SOURCE_LITERAL = re.compile(r"(?<![\w.])((?:\d+\.\d*|\.\d+)(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+)[fF]?(?![\w.])")


def widen_literals(program: str, dependencies: Iterable[str], defines: Iterable[str]) -> str:
    """Write each float literal as the double that its author wrote.

    slangc rounds literals to float: 0.1 comes out as 0.10000000149011612f. What stood in the shader is the literal of
    the sources that rounds to the same float (the longest, where several do), else the shortest decimal that does.
    """
    written: dict[float, str] = {}
    with numpy.errstate(over="ignore", under="ignore"):
        for literal in _SOURCE_LITERAL.findall("\n".join([*map(_read, dependencies), *defines])):
            rounded = float(numpy.float32(literal))
            if len(literal) > len(written.get(rounded, "")):
                written[rounded] = literal

        def widen(match: re.Match[str]) -> str:
            value = numpy.float32(match[1])
            if not numpy.isfinite(value):
                return match[1]
            return repr(float(written.get(float(value)) or numpy.format_float_scientific(value, unique=True)))

        return _FLOAT_LITERAL.sub(widen, program)
