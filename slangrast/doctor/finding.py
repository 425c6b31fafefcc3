"""`Finding`: one line of what `slangrast doctor` says."""

from __future__ import annotations

from dataclasses import dataclass

OK = "ok"
ABSENT = "absent"  # not there, or not for this machine: nothing is wrong
AFFECTED = "affected"  # slangc has a bug here, which what ships avoids
PROBLEM = "problem"

MACHINE, ENGINES, GRADIENTS = "machine", "engines", "gradients"


@dataclass(frozen=True)
class Finding:
    """What was found of one thing. A problem has a fix: a command to run, or a variable to set."""

    section: str
    name: str
    status: str
    text: str
    fix: str = ""
