"""`module.debugger_hint()`, and that a debugger does stop in a line of a shader when told so."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import slangrast as sr

ROOT = Path(__file__).parent.parent
SHADER = Path(__file__).parent / "shaders" / "debug_mode.slang"
PROGRAM = """
import torch
import slangrast as sr

module = sr.load_module({shader!r}, device="cpu", debug=True)
y = torch.zeros(2)
module.shifted(x=torch.ones(2), out_y=y, shift=0).launchRaw((2, 1, 1), (1, 1, 1))
print("result", y.tolist())
"""


def line_of(text: str) -> int:
    return next(number for number, line in enumerate(SHADER.read_text().splitlines(), 1) if text in line)


@pytest.fixture(scope="module")
def module() -> sr.Module:
    return sr.load_module(SHADER, device="cpu", debug=True)


def test_the_hint_has_commands_for_this_process_and_module(module: sr.Module) -> None:
    hint = module.debugger_hint()
    first = line_of("void shifted") + 2
    assert f"debug_mode.slang:{first}  shifted" in hint
    for command in (f"gdb -p {os.getpid()} ", f"lldb -p {os.getpid()} ", "gdb -ex", "lldb -o"):
        assert command in hint
    assert f"break debug_mode.slang:{first}" in hint and f"--file debug_mode.slang --line {first}" in hint
    assert shlex.join(sys.orig_argv) in hint


def test_the_hint_of_a_module_without_debug_says_what_to_do() -> None:
    module = sr.load_module(SHADER, device="cpu")
    assert f"load_module({str(SHADER)!r}, debug=True)" in module.debugger_hint()


@pytest.mark.slow
def test_gdb_stops_in_the_line_of_the_shader(module: sr.Module, tmp_path: Path) -> None:
    if not shutil.which("gdb"):
        pytest.skip("gdb is not installed")
    script = tmp_path / "program.py"
    script.write_text(PROGRAM.format(shader=str(SHADER)))
    # The command of the hint that starts the program anew, with this one in its place, and what a person would type.
    (command,) = re.findall(r"^    (gdb -ex .*) --args", module.debugger_hint(), re.MULTILINE)
    line = line_of("FAULT load")
    quiet = ["-batch", "-nx", "-iex", "set auto-load off"]
    stop, *rest = shlex.split(command)
    rest[3] = f"break debug_mode.slang:{line}"
    typed = [part for what in ("backtrace 1", "print threadIdx.x", "delete", "continue") for part in ("-ex", what)]
    result = subprocess.run(
        [stop, *quiet, *rest, *typed, "--args", sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    if "ptrace" in result.stderr and "not permitted" in result.stderr:
        pytest.skip("this machine does not let a debugger run a process")
    output = result.stdout
    assert re.search(
        rf"Breakpoint 1\S*, .*shifted.* at .*debug_mode\.slang:{line}\n{line}\t.*out_y\[i\] = x\[", output
    ), output
    assert "#0" in output and "$1 = 0" in output and "result [1.0, 1.0]" in output
