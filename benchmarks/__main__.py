"""python -m benchmarks: time the soft rasterizer beside its bars; write JSON and a table. See benchmarks/README.md."""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from . import prototype
from .cases import CASES, MODES
from .cuda import MODES as CUDA_MODES
from .cuda import measure_cuda
from .measure import Plan, first_line, measure
from .peers import load_peer
from .report import add_out, describe_machine, in_own_process, write_report
from .tables import cpu_table, cuda_table


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--modes", nargs="+", choices=CUDA_MODES, help="default: silhouette and color; on CUDA all")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--seconds", type=float, default=2.0, help="of repeats, for each time")
    parser.add_argument("--no-plain", action="store_true", help="leave out plain PyTorch and peers, which take minutes")
    parser.add_argument("--prototype", type=Path, help="C++ file of the hand-written prototype, see prototype.py")
    parser.add_argument("--script", type=Path, help="a second plain PyTorch version to time, see measure.py")
    parser.add_argument("--name", default="cpu", help="of the files on the CPU; another compiler wants its own")
    add_out(parser)
    options = parser.parse_args()
    if options.device == "cuda":
        run_on_cuda(options)
    elif set(options.modes or ()) - set(MODES):
        parser.error(f"--modes: the CPU's are {', '.join(MODES)}; for the hard path see benchmarks.hard")
    else:
        run_on_cpu(options)


def run_on_cpu(options: argparse.Namespace) -> None:
    left_out = {}
    if reason := prototype.why_not(options.prototype):
        left_out["the prototype"] = reason
    if options.no_plain:
        left_out["plain PyTorch and peers"] = "--no-plain was given"
    else:
        if options.script is None or not options.script.is_file():
            left_out["the second plain PyTorch version"] = f"--script: {options.script or 'no file'} is not there"
        if load_peer("pytorch3d", "cpu") is None:
            left_out["PyTorch3D"] = "it cannot be imported"
    load = os.getloadavg()[0]
    rows: list[dict[str, Any]] = []
    plans = [(c, m, t) for c in options.cases for m in options.modes or MODES for t in options.threads]
    with tempfile.TemporaryDirectory() as folder:
        library = None if "the prototype" in left_out else prototype.build(options.prototype, Path(folder))
        script = None if options.script is None or not options.script.is_file() else options.script
        for case, mode, threads in tqdm(plans, unit="case"):
            # What is slow is timed once for a scene, with all threads: the kinder comparison.
            slow = not options.no_plain and threads == max(options.threads)
            plan = Plan(case, mode, threads, slow, library, script, options.seconds)
            rows.append(in_own_process(measure, plan))
    report = {"machine": describe_machine(), "load": load, "left_out": left_out, "rows": rows}
    write_report(options.out, options.name, report, cpu_table(report))


def run_on_cuda(options: argparse.Namespace) -> None:
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks: --device cuda needs a GPU and a CUDA build of torch, and torch sees none")
    plans = [(case, mode) for case in options.cases for mode in options.modes or CUDA_MODES]
    report: dict[str, Any] = {"machine": describe_machine("cuda"), "rows": [], "failed": {}}
    for case, mode in tqdm(plans, unit="case"):
        with_peers = not options.no_plain
        while True:
            try:
                row = in_own_process(measure_cuda, case, mode, options.seconds, with_peers)
                report["rows"].append(row)
            except Exception as error:  # a kernel that fails takes its process along
                report["failed"][f"{case}, {mode}{', with peers' * with_peers}"] = first_line(error)
                if with_peers:
                    with_peers = False
                    continue
            break
        # After each row: whoever lends the GPU may take it back at any time.
        text = cuda_table(report)
        write_report(options.out, "cuda", report, text, quiet=True)
    print(text)


if __name__ == "__main__":
    main()
