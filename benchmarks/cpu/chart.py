"""The chart of ratios: ``python -m benchmarks.cpu.chart RESULT.json CHART.png`` draws that of an earlier measurement."""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks import results

COLOURS = {"eager": "#3566a8", "torch.compile": "#d98032"}


def draw(lines: list[dict], about: list[str], path: Path) -> None:
    """How many times as long as ours the peers take, by case; the mark is what is asked for."""
    threads = max(line["threads"] for line in lines)
    chosen = [line for line in lines if line["threads"] == threads][::-1]
    figure, axes = plt.subplots(figsize=(9, 1.4 + 0.34 * len(chosen)), layout="constrained")
    for i, (peer, colour) in enumerate(COLOURS.items()):
        of_peer = [(y, line) for y, line in enumerate(chosen) if peer in line["seconds"]]
        if not of_peer:
            continue
        ratios = [line["seconds"][peer] / line["seconds"]["ours"] for _, line in of_peer]
        places = [y + 0.2 - 0.4 * i for y, _ in of_peer]
        axes.barh(places, [ratio - 1 for ratio in ratios], left=1, height=0.38, color=colour, label=peer)
        for place, ratio in zip(places, ratios, strict=True):
            axes.text(max(ratio, 1) * 1.03, place, f"{ratio:.1f}", va="center", fontsize=7)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xticks([0.5, 1, 2, 4, 8, 16], ["0.5", "1", "2", "4", "8", "16"])
    axes.minorticks_off()
    axes.set_yticks(
        range(len(chosen)),
        [f"{line['group']}\n{' × '.join(map(str, line['shape']))} {line['dtype']}" for line in chosen],
        fontsize=7,
    )
    axes.set_ylim(-0.7, len(chosen) - 0.3)
    axes.set_xlim(left=min(0.7, axes.get_xlim()[0]))
    axes.set_xlabel(
        f"time of the peer / time of softmax_ext, with {threads} thread{'s' * (threads > 1)} (more is better)",
        fontsize=8,
    )
    axes.set_title("\n".join(about[1:]), fontsize=8)
    axes.legend(loc="center right", fontsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(path, dpi=130, metadata={"Software": None})
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("result", type=Path)
    parser.add_argument("path", type=Path)
    arguments = parser.parse_args()
    result = results.load(arguments.result)
    draw(result["lines"], result["about"], arguments.path)


if __name__ == "__main__":
    main()
