"""The rows of a report as Markdown."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .peers import PEERS
from .report import heading

Row = dict[str, Any]


def cpu_table(report: dict[str, Any]) -> str:
    """Times beside the prototype and plain PyTorch. `~`: timed on a share of the pixels, and scaled."""
    rows = report["rows"]
    lines = [
        heading(report["machine"], "make bench") + f" Load of the machine before: {report['load']:.1f}.",
        "",
        "| case | mode | threads | forward ms | forward + backward ms | prototype ms | ours / prototype | best runs | "
        "speed-up by threads, ours (prototype's) | memory MiB: resident, tensors (bar) | plain PyTorch ms | "
        "plain / ours |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        plain, ratio = _plain(row)
        cells = [
            _title(row), row["mode"], str(row["threads"]), _ms(row["forward_ms"]), _ms(row["step_ms"]),
            *_beside_prototype(row), _scaling(row, rows), memory(row), plain, ratio,
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    if any("prototype_step_ms" in row for row in rows):
        lines += [
            "",
            "Prototype: forward, and forward + backward; the ratios likewise, of medians and of the best runs, which "
            "other work on the machine disturbs least. It starts from projected triangles, colours them linearly on "
            "the screen, leaves out the derivative of the barycentrics, and has no Python around it.",
        ]
    if report["load"] > 0.5:
        lines += ["", "**The machine was busy**: times with several threads, the prototype's above all, say little."]
    latencies = [row for row in rows if row["case"] == "L1"]
    if latencies:
        said = [f"{row['mode']}, threads {row['threads']}: {1e3 * row['step_ms']:,.0f} µs" for row in latencies]
        lines += ["", f"Latency of a whole step (L1): {'; '.join(said)}."]
    lines += _peer_lines(rows, ("forward_ms", "step_ms"))
    lines += [f"\nLeft out: {what} ({why})." for what, why in report["left_out"].items()]
    return "\n".join(lines) + "\n"


def cuda_table(report: dict[str, Any]) -> str:
    """Times by events and graph replay, and what a step costs besides."""
    rows = report["rows"]
    lines = [
        heading(report["machine"], "python -m benchmarks --device cuda"),
        "",
        "| case | mode | forward ms | forward + backward ms | as a CUDA graph ms | times the floor (graph) | "
        "launches | host syncs | memory MiB (bar) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        floor = f"{row['times_the_floor']:.1f}" if "times_the_floor" in row else ""
        floor += f" ({row['graph_times_the_floor']:.1f})" if "graph_times_the_floor" in row else ""
        graph = _ms(row["graph_ms"]) if "graph_ms" in row else row["graph_left_out"]
        counts = ("?" if row[name] is None else str(row[name]) for name in ("launches", "host_syncs"))
        cells = [
            _title(row), row["mode"], _ms(row["forward_ms"]), _ms(row["step_ms"]), graph, floor, *counts, memory(row)
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    lines += [f"\nFailed: {what} ({why})." for what, why in report.get("failed", {}).items()]
    lines += _peer_lines(rows, ("forward_ms", "step_ms", "graph_ms", "peak_growth_mib", "launches", "host_syncs"))
    return "\n".join(lines) + "\n"


def _peer_lines(rows: list[Row], columns: tuple[str, ...]) -> list[str]:
    """A table of the peers that were timed, and a sentence for each that was not."""
    peers = sorted({peer for several in PEERS.values() for peer in several})
    timed = [(row, peer) for row in rows for peer in peers if f"{peer}_step_ms" in row]
    lines = []
    if timed:
        titles = [column.replace("_mib", " MiB").replace("_ms", " ms").replace("_", " ") for column in columns]
        lines += [
            "",
            f"| case | mode | peer | {' | '.join(titles)} | largest (mean) difference | "
            "gradient: whole (median vertex) | its step / ours |",
            "|---" * (len(columns) + 6) + "|",
        ]
    for row, peer in timed:
        numbers = [row.get(f"{peer}_{column}") for column in columns]
        gaps = f"{row[f'{peer}_largest_difference']:.0e} ({row[f'{peer}_mean_difference']:.0e})"
        said = ("" if n is None else str(n) if isinstance(n, int) else _ms(n) for n in numbers)
        gradient = f"{row[f'{peer}_gradient_whole']:.0e} ({row[f'{peer}_gradient_median']:.0e})"
        cells = [_title(row), row["mode"], peer, *said, gaps, gradient]
        lines.append(f"| {' | '.join(cells)} | {row[f'{peer}_step_ms'] / row['step_ms']:,.1f}× |")
    for (peer, why), places in _saying(rows, ("prototype", *peers), "left_out").items():
        lines += ["", f"{peer} was left out, {why}: {', '.join(places)}."]
    return lines + gradients_apart(rows)


def gradients_apart(rows: list[Row]) -> list[str]:
    """A sentence for each peer whose gradient is not ours."""
    peers = sorted({peer for several in PEERS.values() for peer in several})
    lines = []
    for (peer, why), places in _saying(rows, peers, "gradient_apart").items():
        found = [
            f"{place} {row[f'{peer}_gradient_whole']:.0e} ({row[f'{peer}_gradient_motions']:.0e})"
            for place, row in places.items()
        ]
        lines += [
            "",
            f"The gradient of {peer} is not ours: {why}. Its difference as a share of ours, and along motions of the "
            f"whole image: {', '.join(found)}.",
        ]
    return lines


def _saying(rows: list[Row], peers: Iterable[str], key: str) -> dict[tuple[str, str], dict[str, Row]]:
    """What rows say of a peer, and the first row of each place that says it."""
    said: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        for peer in peers:
            if why := row.get(f"{peer}_{key}"):
                said.setdefault((peer, why), {}).setdefault(f"{row['case']} {row.get('mode', '')}".strip(), row)
    return said


def _title(row: Row) -> str:
    batch = f", batch {row['images']}" if row["images"] > 1 else ""
    sigma = f", sigma {row['sigma']:g}" if row["sigma"] != 1e-4 else ""
    return f"{row['case']}: {row['faces']:,} faces, {row['size']}²{batch}{sigma}"


def _ms(value: float) -> str:
    return f"{value:,.2f}" if value >= 1 else f"{value:.3f}"


def memory(row: Row) -> str:
    """By how much the process grows in a step; on the CPU, of that torch's tensors; and the bar where there is one."""
    peaks = [row["peak_growth_mib"], row["peak_tensors_mib"]] if "peak_tensors_mib" in row else [row["peak_growth_mib"]]
    return ", ".join(map(_mib, peaks)) + (f" ({_mib(row['memory_bar_mib'])})" if "memory_bar_mib" in row else "")


def _mib(size: float | None) -> str:
    return "?" if size is None else f"{size:.2f}" if size < 1 else f"{size:.1f}"


def _beside_prototype(row: Row) -> list[str]:
    whats = ("forward", "step")
    if "prototype_step_ms" not in row:
        return ["", "", ""]
    times = [row[f"prototype_{what}_ms"] for what in whats]
    ratios = [[row[f"{what}_{ms}"] / row[f"prototype_{what}_{ms}"] for what in whats] for ms in ("ms", "best_ms")]
    return [", ".join(map(_ms, times)), *(", ".join(f"{ratio:.2f}" for ratio in pair) for pair in ratios)]


def _scaling(row: Row, rows: list[Row]) -> str:
    """How much shorter forward + backward is than with one thread."""
    scene = ("case", "mode")
    alone = [one for one in rows if one["threads"] == 1 and all(one[key] == row[key] for key in scene)]
    if row["threads"] == 1 or not alone:
        return ""
    ours = f"{alone[0]['step_ms'] / row['step_ms']:.2f}"
    if "prototype_step_ms" not in row or "prototype_step_ms" not in alone[0]:
        return ours
    return f"{ours} ({alone[0]['prototype_step_ms'] / row['prototype_step_ms']:.2f})"


def _plain(row: Row) -> list[str]:
    """The faster of the plain PyTorch versions, and how many times longer it takes."""
    if "plain_step_ms" not in row:
        return ["", ""]
    scaled = "~" if row["plain_share_of_pixels"] < 1 else ""
    best = min(row["plain_step_ms"], row.get("script_step_ms", float("inf")))
    return [f"{scaled}{best:,.0f}", f"{scaled}{best / row['step_ms']:,.0f}×"]
