"""python -m benchmarks.registers: registers and spills of every shipped kernel. Needs nvcc and no GPU."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from slangrast.runtime.shader_paths import shader_folder
from slangrast.runtime.slang_compiler import compile_slang
from tests.test_kernels import specialisations

from .report import add_out, describe_machine, heading, write_report

_ENTRY = re.compile(r"Compiling entry function '(\w+)'(.*?)(?=Compiling entry function|\Z)", re.DOTALL)
_NUMBERS = {
    "registers": r"Used (\d+) registers",
    "spilled_bytes": r"(\d+) bytes spill stores",
    "stack_bytes": r"(\d+) bytes stack frame",
    "shared_bytes": r"(\d+) bytes smem",
}
_REGISTERS, _MOST_WARPS = 65536, 64  # of a multiprocessor, from sm_80 on


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.registers", description=__doc__)
    parser.add_argument("--architecture", default="sm_90")
    parser.add_argument("--jobs", type=int, default=2, help="compilers at a time")
    parser.add_argument("--only", default="", help="variants whose name contains this")
    add_out(parser)
    options = parser.parse_args()
    if shutil.which("nvcc") is None:
        raise SystemExit("benchmarks.registers: needs nvcc, which is not on the path")
    variants = {name: variant for name, variant in specialisations().items() if options.only in name}
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.jobs) as pool:

        def compile_one(name: str) -> list[dict[str, Any]]:
            said = ptxas_report(Path(folder, name), *variants[name], options.architecture)
            return [{"variant": name, **row} for row in read_report(said)]

        rows = [row for rows in tqdm(pool.map(compile_one, variants), total=len(variants)) for row in rows]
    machine = describe_machine() | {"nvcc": nvcc_version(), "architecture": options.architecture}
    report = {"machine": machine, "rows": rows}
    write_report(options.out, "registers", report, table(report))


def ptxas_report(folder: Path, shader: str, defines: dict[str, object], architecture: str) -> str:
    """What ptxas prints when the CUDA text of a shader becomes a cubin."""
    folder.mkdir()
    source = shader_folder() / f"{shader}.slang"
    macros = {name: str(value) for name, value in defines.items()}
    output = compile_slang(str(source), macros, (str(shader_folder()),))
    (folder / "program.cu").write_text(f"{output.prelude}\n{output.cuda_text}")
    command = ["nvcc", "-cubin", f"-arch={architecture}", "-Xptxas", "-v", "-w", "program.cu", "-o", "program.cubin"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    if result.returncode:
        raise RuntimeError(f"nvcc could not compile {shader} with {macros}:\n{result.stdout}{result.stderr}")
    return result.stderr


def read_report(said: str) -> list[dict[str, Any]]:
    """A row for each kernel."""
    rows = []
    for entry in _ENTRY.finditer(said):
        row: dict[str, Any] = {"kernel": kernel_name(entry[1])}
        for name, pattern in _NUMBERS.items():
            found = re.search(pattern, entry[2])
            row[name] = int(found[1]) if found else 0
        row["warps"] = resident_warps(row["registers"])
        rows.append(row)
    return rows


def kernel_name(symbol: str) -> str:
    """`soft_rasterize.bwd` for `__kernel__soft_rasterize_bwd_diff`; C++ puts the length before a name, types behind."""
    if mangled := re.match(r"_Z(\d+)", symbol):
        symbol = symbol[mangled.end() :][: int(mangled[1])]
    name = symbol.removeprefix("__kernel__")
    return re.sub(r"_(bwd|fwd)_diff$", r".\1", name)


def resident_warps(registers: int) -> int:
    """How many warps a multiprocessor holds at once, as far as registers decide: a quarter in each of its parts."""
    of_a_warp = 32 * 8 * max(1, -(-registers // 8))  # they are given out by 8 a thread
    return 4 * min(_MOST_WARPS // 4, _REGISTERS // 4 // of_a_warp)


def table(report: dict[str, Any]) -> str:
    machine = report["machine"]
    lines = [
        heading(machine, "python -m benchmarks.registers")
        + f" nvcc {machine['nvcc']}, {machine['architecture']}. No kernel was run.",
        "",
        "| variant | kernel | registers | bytes spilled | bytes of stack | bytes of shared memory | warps of 64 |",
        "|---|---|---|---|---|---|---|",
    ]
    columns = ("variant", "kernel", "registers", "spilled_bytes", "stack_bytes", "shared_bytes", "warps")
    lines += [f"| {' | '.join(str(row[column]) for column in columns)} |" for row in report["rows"]]
    return "\n".join(lines) + "\n"


def nvcc_version() -> str:
    printed = subprocess.run(["nvcc", "--version"], capture_output=True, text=True).stdout
    found = re.search(r"release [\d.]+, V([\d.]+)", printed)
    return found[1] if found else "unknown"


if __name__ == "__main__":
    main()
