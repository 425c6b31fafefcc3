"""python -m benchmarks: time the soft rasterizer on the CPU beside plain PyTorch; write JSON and a table."""

from __future__ import annotations

import argparse
import datetime
import json
import multiprocessing
import platform
import subprocess
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from tqdm import tqdm

import slangrast as sr
from slangrast.runtime.host_compiler import host_compiler
from slangrast.runtime.slang_compiler import slangc_version

from .cases import CASES, MODES
from .measure import measure

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--no-plain", action="store_true", help="leave out plain PyTorch, which takes minutes")
    parser.add_argument("--script", type=Path, help="a second plain PyTorch version to time, see _measure_script")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the JSON and the table")
    options = parser.parse_args()

    plans = [(c, m, t) for c in options.cases for m in options.modes for t in options.threads]
    rows = []
    for case, mode, threads in tqdm(plans, unit="case"):
        # Plain PyTorch is timed once for a scene, with all threads: the kinder comparison.
        with_plain = not options.no_plain and threads == max(options.threads)
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            rows.append(pool.submit(measure, case, mode, threads, with_plain, options.script).result())
    report = {"machine": describe_machine(), "rows": rows}
    options.out.mkdir(parents=True, exist_ok=True)
    name = f"cpu-{report['machine']['date']}"
    (options.out / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")
    (options.out / f"{name}.md").write_text(table(report))
    print(table(report))


def describe_machine() -> dict[str, str]:
    processor = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    command = host_compiler().command
    compiler = subprocess.run([*command, "--version"], capture_output=True, text=True).stdout.splitlines()[0]
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent
    )
    return {
        "date": datetime.date.today().isoformat(),
        "processor": processor,
        "cores": str(multiprocessing.cpu_count()),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "slangc": slangc_version(),
        "compiler": compiler,
        "slangrast": sr.__version__,
        "commit": commit.stdout.strip() or "unknown",
    }


def table(report: dict) -> str:
    """The rows as Markdown, with the faster plain version of each. `~`: timed on a share of the pixels and scaled."""
    machine = report["machine"]
    lines = [
        f"Measured {machine['date']} on {machine['cores']} cores of {machine['processor']}, torch {machine['torch']}, "
        f"slangc {machine['slangc']}, {machine['compiler']}, commit {machine['commit']}: `make bench`.",
        "",
        "| case | mode | threads | forward ms | forward + backward ms | memory MiB | plain PyTorch ms | ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        plain, ratio = "", ""
        if "plain_step_ms" in row:
            scaled = "~" if row["plain_share_of_pixels"] < 1 else ""
            best = min(row["plain_step_ms"], row.get("script_step_ms", float("inf")))
            plain = f"{scaled}{best:,.0f}"
            ratio = f"{scaled}{best / row['step_ms']:,.0f}×"
        lines.append(
            f"| {CASES[row['case']]} | {row['mode']} | {row['threads']} | {row['forward_ms']:.2f} | "
            f"{row['step_ms']:.2f} | {row['peak_growth_mib']:.0f} | {plain} | {ratio} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
