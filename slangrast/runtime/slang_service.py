"""Asks `slang_worker` processes to compile, as many at a time as there are processors."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import ShaderError, parse_slangc_output

_SECONDS_IDLE = 60.0
_WORKER = Path(__file__).with_name("slang_worker.py")
# What slangc takes for granted and its library does not.
_DEFAULTS = ("-matrix-layout-column-major",)


@dataclass(frozen=True)
class Compiled:
    """What a worker made: CUDA text with the torch binding, or a reflection; and the files that took part."""

    text: str
    binding: str
    dependencies: tuple[str, ...]


def compile_in_worker(
    slangc: str, arguments: list[str], keep_binding: Callable[[str, dict[str, Any], Callable[[], str]], str] | None
) -> Compiled | None:
    """Compile in a worker. None where that does not work out, for whatever reason: slangc itself will say why.

    Args:
        slangc: the program, beside which its library must lie.
        arguments: as slangc takes them, the shader first and `-target cuda` among them, without files to write to.
        keep_binding: returns the torch binding, given the CUDA text, the parameters of its kernels, and a function that
            makes the binding. None: a reflection is wanted instead.

    Raises:
        ShaderError: the shader is wrong at a place that is known.
    """
    library = _library_of(slangc)
    if library is None:
        return None

    def ask(job: dict[str, Any]) -> dict[str, Any]:
        answer = worker.ask(job)
        errors = parse_slangc_output(answer["diagnostics"])
        if errors and errors[0].line:
            raise ShaderError(f"slangc could not compile {arguments[0]}", errors, answer["diagnostics"])
        if errors or answer["code"] is None:
            _workers.end_all()  # it may have gone wrong inside
            raise _Unanswered
        return answer

    try:
        with _workers.one(library) as worker:
            wanted = "cuda" if keep_binding else "reflection"
            answer = ask({"arguments": [*arguments, *_DEFAULTS], "wanted": wanted})
            text, binding = answer["code"], ""
            if keep_binding:
                binding = keep_binding(text, answer["parameters"], lambda: str(ask({"wanted": "binding"})["code"]))
    except _Unanswered:
        return None
    return Compiled(text, binding, tuple(dict.fromkeys(map(os.path.realpath, answer["dependencies"]))))


def keep_workers(slangc: str, count: int) -> None:
    """Have `count` workers, which take a moment to start, and do not let them end for a while."""
    if library := _library_of(slangc):
        with contextlib.suppress(_Unanswered):
            _workers.keep(library, count)


def _library_of(slangc: str) -> str | None:
    return next(map(str, sorted(Path(slangc).parent.glob("libslang-compiler.so*"))), None)


class _Unanswered(Exception):
    """A worker could not do its job."""


class _Worker:
    """A process that does one job after another."""

    def __init__(self, library: str) -> None:
        self.library = library
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-I", str(_WORKER), library, str(_SECONDS_IDLE)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            )  # fmt: skip
        except OSError as error:
            raise _Unanswered from error

    def ask(self, job: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write(json.dumps(job) + "\n")
            self.process.stdin.flush()
            answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        except (OSError, ValueError) as error:  # it has crashed
            raise _Unanswered from error
        return answer

    def stay(self) -> None:
        """Let it wait anew for a job."""
        assert self.process.stdin
        with contextlib.suppress(OSError):  # it has ended, which whoever takes it will see
            self.process.stdin.write("\n")
            self.process.stdin.flush()

    def end(self) -> None:
        self.process.kill()
        with contextlib.suppress(OSError):  # what it can no longer be told
            self.process.communicate()


class _Workers:
    """Idle workers, each to be taken by one who asks."""

    def __init__(self) -> None:
        self._idle: list[_Worker] = []
        self._free = threading.BoundedSemaphore(os.cpu_count() or 1)
        self._inherited: list[_Worker] = []

    @contextlib.contextmanager
    def one(self, library: str) -> Iterator[_Worker]:
        with self._free:
            worker = self._take(library)
            try:
                yield worker
            except ShaderError:
                self._idle.append(worker)
                raise
            except BaseException:  # Ctrl-C as well: its answer would be taken for that to the next job
                worker.end()
                raise
            self._idle.append(worker)

    def keep(self, library: str, count: int) -> None:
        with contextlib.ExitStack() as taken:
            for _ in range(count):
                if self._free.acquire(blocking=False):  # else it has a job
                    taken.callback(self._free.release)
                    worker = self._take(library)
                    worker.stay()
                    taken.callback(self._idle.append, worker)

    def _take(self, library: str) -> _Worker:
        while worker := self._pop():
            if worker.library == library and worker.process.poll() is None:
                return worker
            worker.end()  # it is of another slangc, or had nothing to do for a while
        return _Worker(library)

    def _pop(self) -> _Worker | None:
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def end_all(self) -> None:
        """End those that are idle."""
        while worker := self._pop():
            worker.end()

    def forget(self) -> None:
        """In a process that was forked: the workers are the parent's."""
        inherited = [*self._inherited, *self._idle]
        self.__init__()  # type: ignore[misc]
        self._inherited = inherited


_workers = _Workers()
atexit.register(_workers.end_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_workers.forget)
