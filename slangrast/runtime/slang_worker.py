"""A process that compiles one shader after another: `python slang_worker.py LIBRARY`, a job a line on standard input.

slangc spends most of a short compile on its own start, and needs another run for each kind of text. Here the compiler
starts once and a job's shader is read once for all that is asked of it. It stands alone, without the package, so that
it starts in no time; and it is a process of its own, because the compiler may crash.

    job     {"arguments": [...], "targets": 2, "reflection": false}
    answer  {"codes": [...], "dependencies": [...], "reflection": ..., "diagnostics": "..."}; null for what was not made
"""

from __future__ import annotations

import ctypes
import json
import select
import signal
import sys
from typing import Any

_SECONDS_IDLE = 60.0  # then it ends: it holds a quarter of a GiB
_WHOLE_PROGRAM = 1 << 8  # SLANG_TARGET_FLAG_GENERATE_WHOLE_PROGRAM: kernels are no entry points
_POINTER = ctypes.c_void_p


class Compiler:
    """slangc's library, by its C interface: the one that slangc itself is written with."""

    def __init__(self, library: str) -> None:
        self._library = ctypes.CDLL(library)
        for name in ("spCreateSession", "spCreateCompileRequest", "spGetReflection"):
            getattr(self._library, name).restype = _POINTER
        for name in ("spGetDiagnosticOutput", "spGetDependencyFilePath"):
            getattr(self._library, name).restype = ctypes.c_char_p
        self._session = _POINTER(self._library.spCreateSession(None))

    def compile(self, arguments: list[str], targets: int, reflection: bool) -> dict[str, Any]:
        request = _POINTER(self._library.spCreateCompileRequest(self._session))
        try:
            words = (ctypes.c_char_p * len(arguments))(*map(str.encode, arguments))
            good = self._library.spProcessCommandLineArguments(request, words, len(arguments)) >= 0
            if not reflection:
                for target in range(targets):
                    self._library.spSetTargetFlags(request, target, _WHOLE_PROGRAM)
            good = good and self._library.spCompile(request) >= 0
            count = self._library.spGetDependencyFileCount(request) if good else 0
            paths = [self._library.spGetDependencyFilePath(request, index) for index in range(count)]
            return {
                "codes": [self._code(request, target) if good else None for target in range(targets)],
                "reflection": self._reflection(request) if good and reflection else None,
                "dependencies": [path.decode(errors="surrogateescape") for path in paths],
                "diagnostics": (self._library.spGetDiagnosticOutput(request) or b"").decode(errors="replace"),
            }
        finally:
            self._library.spDestroyCompileRequest(request)

    def _code(self, request: ctypes.c_void_p, target: int) -> str | None:
        blob = _POINTER()
        failed = self._library.spGetTargetCodeBlob(request, target, ctypes.byref(blob)) < 0
        return None if failed or not blob else _take_text(blob)

    def _reflection(self, request: ctypes.c_void_p) -> str | None:
        blob = _POINTER()
        described = _POINTER(self._library.spGetReflection(request))
        failed = self._library.spReflection_ToJson(described, request, ctypes.byref(blob)) < 0
        return None if failed or not blob else _take_text(blob)


def _take_text(blob: ctypes.c_void_p) -> str:
    """The bytes of an ISlangBlob, which is then released. Its table: query, add, release, pointer, size."""
    table = ctypes.cast(blob, ctypes.POINTER(ctypes.POINTER(_POINTER))).contents
    start = ctypes.CFUNCTYPE(_POINTER, _POINTER)(table[3])(blob)
    size = ctypes.CFUNCTYPE(ctypes.c_size_t, _POINTER)(table[4])(blob)
    data = ctypes.string_at(start, size) if size else b""
    ctypes.CFUNCTYPE(ctypes.c_uint32, _POINTER)(table[2])(blob)
    return data.decode(errors="surrogateescape")


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks; with it ends the pipe
    compiler = Compiler(sys.argv[1])
    while select.select([sys.stdin], [], [], _SECONDS_IDLE)[0]:
        line = sys.stdin.readline()
        if not line:
            return
        print(json.dumps(compiler.compile(**json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
