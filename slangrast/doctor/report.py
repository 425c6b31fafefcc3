"""What was found, as text for a person and as JSON for a bug report."""

from __future__ import annotations

import dataclasses
import json
import textwrap

from .finding import ABSENT, AFFECTED, ENGINES, GRADIENTS, MACHINE, OK, PROBLEM, Finding

_TITLES = {
    MACHINE: "Machine",
    ENGINES: "Engines, each with a kernel of one line and its gradient",
    GRADIENTS: "Gradients: known bugs of slangc (*: write around it, as the shipped shaders do), and a shipped image",
}
_MARKS = {OK: " ", ABSENT: "-", AFFECTED: "*", PROBLEM: "!"}
_WIDTH = 118


class Report:
    """All findings, and what follows from them."""

    def __init__(self, findings: list[Finding]) -> None:
        self.findings = findings
        self.problems = self._causes()
        self.engines = [finding.name for finding in findings if finding.section == ENGINES and finding.status == OK]
        self.gradients_are_right = not any(problem.section == GRADIENTS for problem in self.problems)

    @property
    def exit_code(self) -> int:
        """0 where some engine works and no shipped formula is wrong."""
        return 0 if self.engines and self.gradients_are_right else 1

    def _in_short(self, finding: Finding) -> Finding:
        """An engine that fails says why only where nothing else does."""
        told_below = finding.status == PROBLEM and finding not in self.problems and not self._has_stand_in(finding)
        return dataclasses.replace(finding, text="does not work, see below") if told_below else finding

    def _causes(self) -> list[Finding]:
        """The problems without those that only follow from another one."""
        problems = [finding for finding in self.findings if finding.status == PROBLEM]
        machine_is_to_blame = any(problem.section == MACHINE and problem.name != "GPU" for problem in problems)
        return [
            problem
            for problem in problems
            if not (problem.section == ENGINES and (machine_is_to_blame or self._has_stand_in(problem)))
        ]

    def _has_stand_in(self, problem: Finding) -> bool:
        """Where slangtorch cannot build for the GPU, NVRTC does; nobody needs NVRTC where slangtorch can."""
        other = {"cuda": "nvrtc", "nvrtc": "cuda"}.get(problem.name)
        return any(f.section == ENGINES and f.name == other and f.status == OK for f in self.findings)

    def json(self) -> str:
        parts = {"findings": self.findings, "problems": self.problems}
        listed = {name: [dataclasses.asdict(finding) for finding in part] for name, part in parts.items()}
        return json.dumps({"engines": self.engines, **listed}, indent=2, ensure_ascii=False)

    def text(self) -> str:
        lines: list[str] = []
        for section, title in _TITLES.items():
            findings = [finding for finding in self.findings if finding.section == section]
            lines += [title, *_table([self._in_short(finding) for finding in findings]), ""]
        return "\n".join([*lines, *self._verdict()])

    def _verdict(self) -> list[str]:
        lines: list[str] = []
        for number, problem in enumerate(self.problems, 1):
            lines += _wrapped(f"Problem {number}: {problem.name}: {problem.text}", 4)
            lines += [f"    Fix: {problem.fix}", ""]
        if not self.engines:
            return [*lines, "slangrast does not work here: no engine does."]
        if not self.gradients_are_right:
            return [*lines, "slangrast runs here, but do not trust its gradients."]
        return [*lines, f"slangrast works here, on {', '.join(self.engines)}."]


def _table(findings: list[Finding]) -> list[str]:
    if not findings:
        return ["- not checked, since that needs the engine cpu"]
    column = max(len(finding.name) for finding in findings) + 4
    rows = [(f"{_MARKS[finding.status]} {finding.name}".ljust(column) + finding.text) for finding in findings]
    return [line for row in rows for line in _wrapped(row, column)]


def _wrapped(text: str, indent: int) -> list[str]:
    """Lines that fit a terminal. A path is never broken, since it will be copied."""
    return textwrap.wrap(text, _WIDTH, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)
