"""Tables of what the benchmarks measured, from the results that are part of the sources (benchmarks/cpu/results).

A result appears when its file is there. Each table begins with the command and the machine that the file names.
"""

from collections.abc import Callable
from itertools import groupby
from pathlib import Path

from benchmarks import results

PEERS = ("eager", "torch.compile")
#: Over the same memory (benchmarks/cpu/cases.py); "plain" is our own operator without what the case adds.
PASSES = ("x * c", "x.sum()", "plain")

Lines = list[dict]


def tables(root: Path) -> dict[str, str]:
    """File name to Markdown; empty where there is no such result."""
    folder = root / "benchmarks" / "cpu" / "results"
    makers: dict[str, Callable[[Lines], str]] = {
        "quick": times,
        "vocabulary": times,
        "vocabulary_tuned_malloc": times,
        "calls": calls,
        "memory": memory,
        "accuracy": accuracy,
    }
    known = {path.stem for path in folder.glob("*.json")}
    if unknown := known - makers.keys():
        raise ValueError(f"expected results of {sorted(makers)}, got {sorted(unknown)} in {folder}")
    return {f"{name}.md": _table(folder / f"{name}.json", make) for name, make in makers.items()}


def _table(path: Path, make: Callable[[Lines], str]) -> str:
    if not path.exists():
        return ""
    content = results.load(path)
    about = "\n".join(content["about"])
    return f"```text\n{about}\n```\n\n{make(content['lines'])}"


def times(lines: Lines) -> str:
    """By case and dtype; a cell has the ratios with each number of threads."""
    counts = sorted({line["threads"] for line in lines})
    rows = []
    for (group, shape, dtype), same in groupby(lines, lambda line: (line["group"], line["shape"], line["dtype"])):
        of_threads = {line["threads"]: line["seconds"] for line in same}
        cells = [f"{group}, {_times(shape)}", dtype]
        for threads in counts:
            seconds = of_threads.get(threads)
            cells.append("–" if seconds is None else _duration(seconds["ours"]))
            cells += [_ratio(seconds, peer) for peer in PEERS]
        of_pass = next((seconds[name] / seconds["ours"] for name in PASSES if name in seconds), None)
        rows.append([*cells, "–" if of_pass is None else f"{of_pass:.2f}"])
    heading = ["case", "dtype"]
    for threads in counts:
        heading += [f"{threads} thread{'s' * (threads > 1)}", "torch", "torch.compile"]
    heading.append("of a pass")
    # torch.compile is measured with all threads alone by --quick.
    wanted = [i for i, name in enumerate(heading) if name != "torch.compile" or any(row[i] != "–" for row in rows)]
    return _markdown([[row[i] for i in wanted] for row in (heading, *rows)], numbers_from=2)


def of_readme(root: Path) -> dict[str, str]:
    """What the README says of what was measured: result to Markdown."""
    folder = root / "benchmarks" / "cpu" / "results"
    vocabulary = [results.load(folder / f"vocabulary{ending}.json")["lines"] for ending in ("", "_tuned_malloc")]
    return {
        "vocabulary": ways_to_the_gradient(*vocabulary),
        "calls": calls(results.load(folder / "calls.json")["lines"]),
        "memory": linear_memory(results.load(folder / "memory.json")["lines"]),
    }


def linear_memory(lines: Lines) -> str:
    (line,) = (line for line in lines if line["function"] == "linear_cross_entropy")
    rows, features, classes = line["shape"]
    size = {name: f"{peak / 2**20:.0f}" for name, peak in line["peak_bytes"].items()}
    return (
        f"Of a layer with {rows} rows of {features} features and {classes} classes, `linear_cross_entropy` takes "
        f"{size['forward']} MiB beside its inputs, {size['recompute']} if its gradients are not made in the forward "
        f"pass; `F.linear` and `F.cross_entropy` take {size['torch']}, compiled {size['torch.compile']}."
    )


#: Groups of cases, and the ``gradient=`` that they measure.
WAYS = {
    "cross-entropy forward and backward, vocabulary": "recompute",
    "cross-entropy forward and backward, gradient in forward, vocabulary": "forward",
    "cross-entropy forward and backward, in place, vocabulary": "inplace",
}


def ways_to_the_gradient(lines: Lines, memory_kept: Lines) -> str:
    """Of one shape: beside peers whose memory comes from the system each time, and beside those that keep it."""
    rows = []
    for line, kept in zip(lines, memory_kept, strict=True):
        if line["key"] != kept["key"]:
            raise ValueError(f"expected results of the same cases, got {line['key']} and {kept['key']}")
        if line["group"] in WAYS:
            ratios = [_ratio(result["seconds"], peer) for result in (line, kept) for peer in PEERS]
            rows.append([line["dtype"], f'`"{WAYS[line["group"]]}"`', _duration(line["seconds"]["ours"]), *ratios])
    peers = ["torch", "torch.compile", "torch, memory kept", "torch.compile, memory kept"]
    return _markdown([["logits", "`gradient=`", "softmax_ext", *peers], *rows], numbers_from=2)


def calls(lines: Lines) -> str:
    columns = list(lines[0]["seconds"])
    rows = [
        [line["call"], _duration(line["seconds"][columns[0]])]
        + [f"{line['seconds'][name] / line['seconds'][columns[0]]:.2f} ×" for name in columns[1:]]
        for line in lines
    ]
    return _markdown([["call", *columns], *rows], numbers_from=1)


def memory(lines: Lines) -> str:
    columns = list(lines[0]["peak_bytes"])
    rows = [
        [line["function"], _times(line["shape"]), line["dtype"], f"{line['bytes_of_logits'] / 2**20:.0f} MiB"]
        + [f"{line['peak_bytes'][name] / 2**20:.0f} MiB" if name in line["peak_bytes"] else "–" for name in columns]
        for line in lines
    ]
    return _markdown([["function", "shape", "dtype", "logits", *columns], *rows], numbers_from=3)


def accuracy(lines: Lines) -> str:
    """Ours / torch's, by length; a measured error beyond its bound ends the build."""
    beyond = [line for line in lines if not line["ours"] <= line["bound"]]
    if beyond:
        raise ValueError(f"expected errors within their bounds, got {beyond}")
    lengths = list(dict.fromkeys(line["length"] for line in lines))
    rows = []
    for key, same in groupby(lines, lambda line: (line["function"], line["dtype"], line["what"], line["unit"])):
        function, dtype, what, unit = key
        of_length = {line["length"]: line for line in same}
        bounds = list(dict.fromkeys(f"{line['bound']:g}" for line in of_length.values()))
        cells = [f"`{function}` {dtype}: {what}, {unit}", " or ".join(bounds)]
        rows.append(
            cells + [f"{_two_digits(of_length[n]['ours'])} / {_two_digits(of_length[n]['torch'])}" for n in lengths]
        )
    return _markdown([["largest error", "bound", *(f"N = {n:,}" for n in lengths)], *rows], numbers_from=1)


def _markdown(rows: list[list[str]], numbers_from: int) -> str:
    heading, *others = rows
    rule = ["---" if i < numbers_from else "---:" for i in range(len(heading))]
    return "".join(f"| {' | '.join(row)} |\n" for row in (heading, rule, *others))


def _two_digits(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.2g}"


def _times(shape: list[int]) -> str:
    return " × ".join(map(str, shape))


def _duration(seconds: float) -> str:
    for unit, size in (("s", 1), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def _ratio(seconds: dict[str, float] | None, peer: str) -> str:
    return "–" if seconds is None or peer not in seconds else f"{seconds[peer] / seconds['ours']:.2f} ×"
