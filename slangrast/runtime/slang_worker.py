"""A process that compiles one shader after another: `python slang_worker.py LIBRARY SECONDS`.

slangc spends most of a short compile on its own start, and needs another run for each kind of text. Here the compiler
starts once and a job's shader is read once for all that is asked of it. It stands alone, without the package, so that
it starts in no time; and it is a process of its own, because the compiler may crash.

    job     {"arguments": [...], "wanted": "cuda"}
    answer  {"code": ..., "parameters": {...}, "dependencies": [...], "diagnostics": "..."}
    job     {"wanted": "binding"}                         the torch binding of the same shader
    answer  {"code": ..., "diagnostics": "..."}
    job     {"arguments": [...], "wanted": "reflection"}
    answer  {"code": ..., "dependencies": [...], "diagnostics": "..."}

A job is a line on standard input, an answer one on standard output. What could not be made is null. An empty line is
no job. After so many seconds without a line it ends: it holds a quarter of a GiB.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import select
import signal
import sys
from collections.abc import Callable
from typing import Any

_WHOLE_PROGRAM = 1 << 8  # SLANG_TARGET_FLAG_GENERATE_WHOLE_PROGRAM
_STRUCT, _ARRAY = 1, 2  # SlangTypeKind
# Places in the tables of functions of ISlangUnknown, ISlangBlob and IComponentType.
_RELEASE, _POINTER_OF, _SIZE_OF, _TARGET_CODE = 2, 3, 4, 14
_KERNEL = re.compile(r"^__global__ void __kernel__(\w+)\(", re.MULTILINE)
_POINTER = ctypes.c_void_p


class Compiler:
    """slangc's library, by its C interface: the one that slangc itself is written with."""

    def __init__(self, library: str) -> None:
        self._library = ctypes.CDLL(library)
        for name in ("spCreateSession", "spCreateCompileRequest", "spGetReflection", *_Declarations.POINTERS):
            getattr(self._library, name).restype = _POINTER
        for name in ("spGetDiagnosticOutput", "spGetDependencyFilePath", *_Declarations.TEXTS):
            getattr(self._library, name).restype = ctypes.c_char_p
        for name in _Declarations.BOOLS:  # of which C fills one byte of the four of an int
            getattr(self._library, name).restype = ctypes.c_bool
        self._session = _POINTER(self._library.spCreateSession(None))
        self._request: ctypes.c_void_p | None = None
        self._arguments: list[str] = []
        self._files: dict[str, tuple[int, int]] = {}  # that the shader was read from, and when they were written

    def answer(self, wanted: str, arguments: list[str] | None = None) -> dict[str, Any]:
        answer: dict[str, Any] = {}
        good = True
        if arguments is not None:
            good = self._read(arguments)
            count = self._library.spGetDependencyFileCount(self._request) if good else 0
            paths = [self._library.spGetDependencyFilePath(self._request, index) for index in range(count)]
            answer["dependencies"] = [path.decode(errors="surrogateescape") for path in paths]
            self._arguments, self._files = arguments, {path: _written(path) for path in answer["dependencies"]}
        make = {"cuda": self._cuda, "binding": self._binding, "reflection": self._reflection}[wanted]
        answer["code"], diagnostics = make() if good else (None, "")
        if wanted == "cuda":
            answer["parameters"] = self._parameters(_KERNEL.findall(answer["code"] or ""))
        if wanted == "binding" and answer["code"] is None:
            return {**answer, "diagnostics": ""}  # the shader is right: it was read before
        first = (self._library.spGetDiagnosticOutput(self._request) or b"").decode(errors="replace")
        return {**answer, "diagnostics": first + diagnostics}

    def _read(self, arguments: list[str], whole_target: int | None = None) -> bool:
        """Read and check the shader."""
        if self._request:
            self._library.spDestroyCompileRequest(self._request)
        self._request = _POINTER(self._library.spCreateCompileRequest(self._session))
        return self._compile(arguments, whole_target)

    def _compile(self, arguments: list[str], whole_target: int | None = None) -> bool:
        """With these arguments added, read the shader, and generate code for one target at most."""
        words = (ctypes.c_char_p * len(arguments))(*map(str.encode, arguments))
        good = self._library.spProcessCommandLineArguments(self._request, words, len(arguments)) >= 0
        self._library.spSetTargetFlags(self._request, 0, 0)  # kernels are no entry points: nothing is left to generate
        if whole_target is not None:
            self._library.spSetTargetFlags(self._request, whole_target, _WHOLE_PROGRAM)
        return good and bool(self._library.spCompile(self._request) >= 0)

    def _cuda(self) -> tuple[str | None, str]:
        self._library.spSetTargetFlags(self._request, 0, _WHOLE_PROGRAM)
        program, code, diagnostics = _POINTER(), _POINTER(), _POINTER()
        if self._library.spCompileRequest_getProgram(self._request, ctypes.byref(program)) < 0:
            return None, ""
        call = _function(program, _TARGET_CODE, ctypes.c_int32, ctypes.c_int64, _POINTER, _POINTER)
        failed = call(0, ctypes.byref(code), ctypes.byref(diagnostics)) < 0
        _function(program, _RELEASE, ctypes.c_uint32)()
        said = _take_text(diagnostics) or ""
        return None if failed else _take_text(code), said

    def _binding(self) -> tuple[str | None, str]:
        # What the shader imports is not read again.
        if self._compile(["-target", "torch-binding"], 1) and (code := self._code_of(1)):
            return code, ""
        # slangc 2026.14 cannot read a shader twice that is made of several texts, by `#include` or `__include`.
        target = self._arguments.index("-target") + 1
        arguments = [*self._arguments[:target], "torch-binding", *self._arguments[target + 1 :]]
        code = self._code_of(0) if self._read(arguments, 0) else None
        is_the_same = all(_written(path) == written for path, written in self._files.items())
        return code if is_the_same else None, ""

    def _code_of(self, target: int) -> str | None:
        code = _POINTER()
        failed = self._library.spGetTargetCodeBlob(self._request, target, ctypes.byref(code)) < 0
        return None if failed else _take_text(code)

    def _reflection(self) -> tuple[str | None, str]:
        text = _POINTER()
        described = _POINTER(self._library.spGetReflection(self._request))
        failed = self._library.spReflection_ToJson(described, self._request, ctypes.byref(text)) < 0
        return None if failed else _take_text(text), ""

    def _parameters(self, kernels: list[str]) -> dict[str, Any]:
        declarations = _Declarations(self._library, _POINTER(self._library.spGetReflection(self._request)))
        found = {name: declarations.parameters_of(name) for name in kernels}
        return {name: parameters for name, parameters in found.items() if parameters is not None}


class _Declarations:
    """What a shader that was read declares."""

    POINTERS = (
        "spReflection_FindFunctionByName", "spReflectionFunction_GetParameter", "spReflectionVariable_GetType",
        "spReflectionType_GetFieldByIndex", "spReflectionType_GetElementType",
    )  # fmt: skip
    TEXTS = ("spReflectionVariable_GetName",)
    BOOLS = ("spReflectionFunction_isOverloaded",)

    def __init__(self, library: ctypes.CDLL, reflection: ctypes.c_void_p) -> None:
        self._library, self._reflection = library, reflection

    def parameters_of(self, function: str) -> list[Any] | None:
        """Name and type of each parameter of a function. None where there is no such function, or are several."""
        found = self._library.spReflection_FindFunctionByName(self._reflection, function.encode())
        if not found or self._library.spReflectionFunction_isOverloaded(_POINTER(found)):
            return None
        count = self._library.spReflectionFunction_GetParameterCount(_POINTER(found))
        return [
            self._variable(self._library.spReflectionFunction_GetParameter(_POINTER(found), index))
            for index in range(count)
        ]

    def _variable(self, variable: int) -> list[Any]:
        name = self._library.spReflectionVariable_GetName(_POINTER(variable)) or b""
        return [name.decode(), self._type(_POINTER(self._library.spReflectionVariable_GetType(_POINTER(variable))))]

    def _type(self, type_: ctypes.c_void_p) -> list[Any]:
        """The whole name of a type, without aliases, and its fields, or what it is an array of."""
        name = _POINTER()
        self._library.spReflectionType_GetFullName(type_, ctypes.byref(name))
        kind, inner = self._library.spReflectionType_GetKind(type_), []
        if kind == _STRUCT:
            count = self._library.spReflectionType_GetFieldCount(type_)
            fields = [self._library.spReflectionType_GetFieldByIndex(type_, index) for index in range(count)]
            inner = [self._variable(field) for field in fields]
        elif kind == _ARRAY:
            inner = [["", self._type(_POINTER(self._library.spReflectionType_GetElementType(type_)))]]
        return [_take_text(name), inner]


def _written(path: str) -> tuple[int, int]:
    try:
        file = os.stat(path)
    except OSError:
        return (0, 0)
    return file.st_mtime_ns, file.st_size


def _function(object_: ctypes.c_void_p, place: int, result: Any, *arguments: Any) -> Callable[..., Any]:
    """A function from the table of an object, with the object as its first argument."""
    table = ctypes.cast(object_, ctypes.POINTER(ctypes.POINTER(_POINTER))).contents
    function = ctypes.CFUNCTYPE(result, _POINTER, *arguments)(table[place])
    return lambda *values: function(object_, *values)


def _take_text(blob: ctypes.c_void_p) -> str | None:
    """The bytes of an ISlangBlob, which is then released. None where there is none."""
    if not blob:
        return None
    start, size = _function(blob, _POINTER_OF, _POINTER)(), _function(blob, _SIZE_OF, ctypes.c_size_t)()
    data = ctypes.string_at(start, size) if size else b""
    _function(blob, _RELEASE, ctypes.c_uint32)()
    return data.decode(errors="surrogateescape")


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks; with it ends the pipe
    compiler = Compiler(sys.argv[1])
    with open(0, "rb", buffering=0) as jobs:  # a line that was read ahead would not wake it
        while select.select([jobs], [], [], float(sys.argv[2]))[0]:
            line = jobs.readline()
            if not line:
                return
            if line.strip():
                print(json.dumps(compiler.answer(**json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
