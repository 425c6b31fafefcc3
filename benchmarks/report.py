"""What the benchmarks share: the machine they ran on, a process for each measurement, and where results go."""

from __future__ import annotations

import argparse
import datetime
import json
import multiprocessing
import platform
import subprocess
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

import slangrast as sr
from slangrast.runtime.host_compiler import host_compiler
from slangrast.runtime.slang_compiler import slangc_version

RESULTS = Path(__file__).parent / "results"


def add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the JSON and the table")


def in_own_process(measure: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a call in a fresh process, where nothing of another measurement shows in memory or threads."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, *arguments).result()


def rows_of_today(folder: Path, stem: str, machine: dict[str, str]) -> list[dict[str, Any]]:
    """What `write_report` wrote earlier today on this machine at this commit."""
    file = folder / f"{stem}-{machine['date']}.json"
    report = json.loads(file.read_text()) if file.is_file() else {"machine": None}
    return report["rows"] if report["machine"] == machine else []


def write_report(folder: Path, stem: str, report: dict[str, Any], table: str, quiet: bool = False) -> None:
    """Write stem-DATE.json and stem-DATE.md, and print the table unless `quiet`."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{stem}-{report['machine']['date']}"
    (folder / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")
    (folder / f"{name}.md").write_text(table)
    if not quiet:
        print(table)


def heading(machine: dict[str, str], command: str) -> str:
    """The sentence above a table: when, on what and by which command."""
    where = f"{machine['cores']} cores of {machine['processor']}"
    if "gpu" in machine:
        where = f"{machine['gpu']} (CUDA {machine['cuda']}), {where}"
    return (
        f"Measured {machine['date']} on {where}, torch {machine['torch']}, slangc {machine['slangc']}, "
        f"{machine['compiler']}, commit {machine['commit']}: `{command}`."
    )


def describe_machine(device: str = "cpu") -> dict[str, str]:
    machine = {
        "date": datetime.date.today().isoformat(),
        "processor": _processor(),
        "cores": str(multiprocessing.cpu_count()),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "slangc": slangc_version(),
        "compiler": _first_line([*host_compiler().command, "--version"]),
        "slangrast": sr.__version__,
        "commit": _commit(),
    }
    if device == "cuda":
        machine |= {"gpu": torch.cuda.get_device_name(), "cuda": str(torch.version.cuda)}
    return machine


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _commit() -> str:
    git = ["git", "-C", str(Path(__file__).parent)]
    commit = _first_line([*git, "rev-parse", "--short", "HEAD"])
    changed = _first_line([*git, "status", "--porcelain", "--", "../slangrast", "../shaders"])
    return f"{commit} with changes" if changed else commit or "unknown"


def _first_line(command: list[str]) -> str:
    try:
        printed = subprocess.run(command, capture_output=True, text=True).stdout
    except OSError:
        return ""
    return printed.partition("\n")[0]
