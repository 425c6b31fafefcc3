"""Asks `slang_worker` processes to compile, as many at a time as there are processors."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import ShaderError, parse_slangc_output

_WORKER = Path(__file__).with_name("slang_worker.py")
# What slangc takes for granted and its library does not.
_DEFAULTS = ("-matrix-layout-column-major",)


@dataclass(frozen=True)
class Compiled:
    """What a worker made: a text for each target, and the files that took part."""

    codes: tuple[str, ...]
    dependencies: tuple[str, ...]
    reflection: str


def compile_in_worker(slangc: str, arguments: list[str], targets: int, reflection: bool = False) -> Compiled | None:
    """Compile in a worker. None where that does not work out, for whatever reason: slangc itself will say why.

    Args:
        slangc: the program, beside which its library must lie.
        arguments: as slangc takes them, the shader first, without files to write to.
        targets: how many `-target` there are among them.
        reflection: whether the parameters of an entry point are asked for as well.

    Raises:
        ShaderError: the shader is wrong at a place that is known.
    """
    library = next(iter(sorted(Path(slangc).parent.glob("libslang-compiler.so*"))), None)
    if library is None:
        return None
    job = {"arguments": [*arguments, *_DEFAULTS], "targets": targets, "reflection": reflection}
    answer = _workers.ask(str(library), json.dumps(job))
    if answer is None:
        return None
    errors = parse_slangc_output(answer["diagnostics"])
    if errors and errors[0].line:
        raise ShaderError(f"slangc could not compile {arguments[0]}", errors, answer["diagnostics"])
    if errors or None in answer["codes"] or (reflection and answer["reflection"] is None):
        _workers.end_all()  # it may have gone wrong inside
        return None
    files = dict.fromkeys(map(os.path.realpath, answer["dependencies"]))
    return Compiled(tuple(answer["codes"]), tuple(files), answer["reflection"] or "")


class _Workers:
    """Idle workers, to be taken for one job at a time."""

    def __init__(self) -> None:
        self._idle: list[subprocess.Popen[str]] = []
        self._free = threading.BoundedSemaphore(os.cpu_count() or 1)
        self._inherited: list[subprocess.Popen[str]] = []
        self._library = ""

    def ask(self, library: str, job: str) -> dict[str, Any] | None:
        with self._free:
            worker = None
            try:
                worker = self._take(library)
                assert worker.stdin and worker.stdout
                worker.stdin.write(job + "\n")
                worker.stdin.flush()
                answer = json.loads(worker.stdout.readline())
            except (OSError, ValueError):  # it cannot be started, or has crashed
                self._end(worker)
                return None
            except BaseException:  # Ctrl-C: its answer would be taken for that to the next job
                self._end(worker)
                raise
            self._idle.append(worker)
            return answer

    def _take(self, library: str) -> subprocess.Popen[str]:
        if library != self._library:
            self.end_all()
            self._library = library
        while worker := self._pop():
            if worker.poll() is None:
                return worker
            self._end(worker)  # it had nothing to do for a while
        return subprocess.Popen(
            [sys.executable, "-I", str(_WORKER), library],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip

    def _pop(self) -> subprocess.Popen[str] | None:
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def end_all(self) -> None:
        """End those that are idle."""
        while worker := self._pop():
            self._end(worker)

    def _end(self, worker: subprocess.Popen[str] | None) -> None:
        if worker is not None:
            worker.kill()
            with contextlib.suppress(OSError):  # what it can no longer be told
                worker.communicate()

    def forget(self) -> None:
        """In a process that was forked: the workers are the parent's."""
        inherited = [*self._inherited, *self._idle]
        self.__init__()  # type: ignore[misc]
        self._inherited = inherited


_workers = _Workers()
atexit.register(_workers.end_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_workers.forget)
