"""Runs every check in another process, so that one that crashes or hangs costs its answer and not the report."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from . import engines, gradients, machine
from .finding import AFFECTED, ENGINES, GRADIENTS, MACHINE, OK, PROBLEM, Finding

CHECKS: dict[str, dict[str, Callable[[], list[Finding]]]] = {
    MACHINE: machine.LOOKS,
    ENGINES: engines.TRIALS,
    GRADIENTS: gradients.TRIALS,
}
_PATIENCE_SECONDS = 300.0  # nvcc, or zig with its C++ library, may take a minute


def run_check(section: str, name: str) -> list[Finding]:
    """What one check finds. One that raises has found that."""
    try:
        return CHECKS[section][name]()
    except Exception as error:
        return [_failure(section, name, f"{type(error).__name__}: {error}")]


def _failure(section: str, name: str, text: str) -> Finding:
    if section == GRADIENTS and name not in gradients.SHIPPED:
        return Finding(section, name, AFFECTED, text)  # nothing that ships does what a canary does
    return Finding(section, name, PROBLEM, text, engines.REPORT)


def examine(announce: Callable[[str], None]) -> list[Finding]:
    """Run all checks; `announce` is given the name of each before it runs."""
    findings: list[Finding] = []
    examiner = Examiner(run_check)
    try:
        for section, checks in CHECKS.items():
            if section == GRADIENTS and not any(f.name == "cpu float64" and f.status == OK for f in findings):
                continue  # the canaries run on that engine
            for name in checks:
                announce(name)
                findings += examiner.ask(section, name)
    finally:
        examiner.close()
    return findings


class Examiner:
    """A process that runs checks one after another; another takes its place when it dies."""

    def __init__(self, run: Callable[[str, str], list[Finding]], patience: float = _PATIENCE_SECONDS) -> None:
        self._run = run
        self._patience = patience
        self._running: tuple[BaseProcess, Connection] | None = None

    def ask(self, section: str, name: str) -> list[Finding]:
        """What the check finds, or that its process died or did not answer."""
        process, connection = self._running = self._running or self._start()
        try:
            connection.send((section, name))
            if connection.poll(self._patience):
                answer: list[Finding] = connection.recv()
                return answer
            text = f"gave no answer in {self._patience:.0f} s"
        except (EOFError, OSError):
            process.join(10)
            code = process.exitcode or 0
            text = f"crashed (signal {-code})" if code < 0 else f"ended its process ({code})"
        self.close()
        return [_failure(section, name, text)]

    def close(self) -> None:
        if self._running is not None:
            process, connection = self._running
            process.kill()
            process.join()
            connection.close()
        self._running = None

    def _start(self) -> tuple[BaseProcess, Connection]:
        context = multiprocessing.get_context("spawn")  # a fork would share this process's threads and GPU
        connection, theirs = context.Pipe()
        process = context.Process(target=_answer, args=(theirs, self._run), daemon=True)
        process.start()
        theirs.close()  # or nobody would see the end of the connection when that process dies
        return process, connection


def _answer(connection: Connection, run: Callable[[str, str], list[Finding]]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks, which ends this one
    while True:
        try:
            section, name = connection.recv()
        except EOFError:
            return
        connection.send(run(section, name))
