"""Processes in which a sanitizer works."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import slangrast as sr
from slangrast.runtime.sanitizers import preloads

ROOT = Path(__file__).parent.parent


def environment(sanitizer: str) -> dict[str, str]:
    """The variables of such a process. A skip where the machine has no runtime that works."""
    why = "no C++ compiler"
    for compiler in filter(shutil.which, ("g++",) if sanitizer == "thread" else ("clang++", "g++")):
        try:
            needed = preloads(sanitizer, [compiler])
        except sr.ShaderError as error:
            why = str(error)
            continue
        settings = os.environ | needed | {"SLANGRAST_SANITIZE": sanitizer, "SLANGRAST_CXX": compiler}
        if subprocess.run([sys.executable, "-c", ""], env=settings, capture_output=True).returncode == 0:
            return settings | {"PYTHONPATH": str(ROOT)}
        why = f"Python does not start with the runtime of {compiler} for {sanitizer!r}"
    pytest.skip(why)
