"""`slangrast doctor`: what this machine can do, what it cannot, and what to do about it."""

from __future__ import annotations

import sys

from .examination import examine
from .finding import Finding
from .report import Report


def run_doctor(*, as_json: bool = False) -> int:
    """Examine this machine and print what was found.

    Args:
        as_json: print a JSON object instead of text.

    Returns:
        0 where some engine works and no shipped formula has a wrong gradient, else 1.
    """
    report = Report(examine(_announce))
    _announce("")
    print(report.json() if as_json else report.text())
    return report.exit_code


def _announce(name: str) -> None:
    """Say on a terminal what is being done, in one line that the next one replaces."""
    if sys.stderr.isatty():
        print(f"\r\033[K{f'checking {name} ...' if name else ''}", end="", file=sys.stderr, flush=True)


__all__ = ["Finding", "Report", "examine", "run_doctor"]
