"""`Module.debugger_hint`: the commands by which a debugger stops in a line of a shader."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping

from .shader_sites import KernelPlace

_ADVICE = """\
Any other line of {file} will do as well, or of a file that it imports. A line may be in the derivatives too: gdb then
stops in each. `info args`, `info locals` and `print NAME` (gdb) or `frame variable` (lldb) show values; slangc puts a
number behind each name, so that `x` is `x_0` or `x_1`. `threadIdx` and `blockIdx` tell which thread it is, and with
torch.set_num_threads(1) blocks come in order. `break slangrast::stop_at` stops where a fault is found, before it
becomes an exception."""


def debugger_hint(path: str, kernels: Mapping[str, KernelPlace] | None) -> str:
    """How to stop in the shader `path`, in this process.

    Args:
        path: the .slang file.
        kernels: where each kernel stands. None: the build has nothing for a debugger in it.
    """
    file = os.path.basename(path)
    if kernels is None:
        return (
            f"{file} was not built for a debugger: load it with load_module({path!r}, debug=True), and ask that module "
            "for its hint."
        )
    stops = [(os.path.basename(place.file), place.statement, kernel) for kernel, place in kernels.items()]
    line = next((place.statement for place in kernels.values() if place.file == path), 1)
    gdb = f'-ex "set breakpoint pending on" -ex "break {file}:{line}"'
    lldb = f'-o "breakpoint set --file {file} --line {line}"'
    again = shlex.join(sys.orig_argv)
    return "\n".join(
        [
            f"Kernels of {path}, by where they begin:",
            *(f"    {where}:{statement}  {kernel}" for where, statement, kernel in sorted(stops)),
            "",
            "In another terminal, attach to this process; or start it anew under the debugger:",
            f"    gdb -p {os.getpid()} {gdb} -ex continue",
            f"    gdb {gdb} -ex run --args {again}",
            f"    lldb -p {os.getpid()} {lldb} -o continue",
            f"    lldb {lldb} -o run -- {again}",
            "Where attaching is not permitted, the second and the last still work.",
            "",
            _ADVICE.format(file=file),
        ]
    )
