"""Results of benchmarks.gpu as Markdown."""

import json
import math
from collections.abc import Iterable
from pathlib import Path

HOST_KEY = "host time"


def read(results: Path, of: str | None = None) -> list[dict]:
    """The results of one build on one device: ``of``, or those that came last."""
    lines = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    of = of or (lines[-1].get("of") if lines else None)
    return [line for line in lines if line.get("of") == of]


def gigabytes_per_second(line: dict) -> float:
    return line["traffic"] / line["seconds"]["ours"] / 1e9


def of_copy(line: dict) -> float:
    return line["copy"] / line["seconds"]["ours"]


def against(line: dict, peer: str) -> float | None:
    return line["seconds"][peer] / line["seconds"]["ours"] if peer in line["seconds"] else None


def one_line(line: dict) -> str:
    peers = ", ".join(f"{peer} {against(line, peer):.2f} ×" for peer in line["seconds"] if peer != "ours")
    return (
        f"{line['key']}: {line['seconds']['ours'] * 1e6:.1f} µs, {gigabytes_per_second(line):.0f} GB/s, "
        f"{of_copy(line):.2f} of a copy; {peers}"
    )


def geometric_mean(values: Iterable[float]) -> float:
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs))


def markdown(results: Path) -> str:
    """One row per case; the grid as averages."""
    lines = read(results)
    if not lines:
        return "Not yet measured on a GPU."
    host = next(line for line in lines if line["key"] == HOST_KEY)
    measured = [line for line in lines if line["key"] != HOST_KEY]
    parts = ["; ".join(f"{name} {value}" for name, value in host["machine"].items()), ""]
    peers = ("eager", "torch.compile", "Liger")
    table = [line for line in measured if not line["group"].startswith("grid")]
    for group in dict.fromkeys(line["group"] for line in table):
        parts += [f"### {group}", "", "| shape | dtype | time | GB/s | of a copy | " + " | ".join(peers) + " |"]
        parts += ["| --- | --- | --- | --- | --- |" + " --- |" * len(peers)]
        for line in (line for line in table if line["group"] == group):
            ratios = [against(line, peer) for peer in peers]
            cells = [f"{ratio:.2f} ×" if ratio else "–" for ratio in ratios]
            parts.append(
                f"| {' × '.join(map(str, line['shape']))} | {line['dtype']} | {line['seconds']['ours'] * 1e6:.1f} µs | "
                f"{gigabytes_per_second(line):.0f} | {of_copy(line):.2f} | {' | '.join(cells)} |"
            )
        parts.append("")
    grid = [line for line in measured if line["group"].startswith("grid")]
    if grid:
        parts += ["### Public grid: 4096 rows of 256, 384, … 12672", ""]
        parts += ["| pass | dtype | cases | eager, geometric mean | least | of a copy, mean | least |"]
        parts += ["| --- | --- | --- | --- | --- | --- | --- |"]
        for group, dtype in dict.fromkeys((line["group"], line["dtype"]) for line in grid):
            of_pair = [line for line in grid if (line["group"], line["dtype"]) == (group, dtype)]
            ratios = [against(line, "eager") for line in of_pair]
            fractions = [of_copy(line) for line in of_pair]
            parts.append(
                f"| {group.removeprefix('grid, ')} | {dtype} | {len(of_pair)} | {geometric_mean(ratios):.2f} × | "
                f"{min(ratios):.2f} × | {sum(fractions) / len(fractions):.2f} | {min(fractions):.2f} |"
            )
        parts.append("")
    parts += ["### Time of the host per call", "", "| call | ours | torch | ratio |", "| --- | --- | --- | --- |"]
    for name, times in host["host"].items():
        parts.append(
            f"| {name} | {times['ours'] * 1e6:.2f} µs | {times['eager'] * 1e6:.2f} µs | "
            f"{times['ours'] / times['eager']:.2f} |"
        )
    return "\n".join(parts)
