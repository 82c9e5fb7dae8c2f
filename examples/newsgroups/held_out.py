"""Writes what the explorer's view of calibration shows: the demo's classifier on the test documents.

``python -m examples.newsgroups.held_out python/softmax_ext/explorer/data/newsgroups.pt``
"""

import argparse
import sys
from pathlib import Path

import torch

import softmax_ext
from examples.newsgroups import data
from examples.newsgroups.features import tf_idf
from examples.newsgroups.train import logits_of, train

BUILD = Path(__file__).resolve().parents[2] / "build"
# As in the demo.
WORDS, EPOCHS, SEED = 8_000, 6, 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m examples.newsgroups.held_out", description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--data-dir", type=Path, default=BUILD / "data", help="where the download is kept")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    try:
        newsgroups = data.load(arguments.data_dir)
    except data.DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    documents, test_documents = tf_idf(newsgroups, WORDS)
    labels, test_labels = torch.tensor(newsgroups.train.labels), torch.tensor(newsgroups.test.labels)
    run = train(
        softmax_ext.cross_entropy,
        documents,
        labels,
        len(newsgroups.class_names),
        epochs=EPOCHS,
        seed=SEED,
        on_step=lambda loss: None,
    )
    # In random order, as the tables are sorted by newsgroup. The demo takes its documents in the same one.
    order = torch.randperm(len(test_labels), generator=torch.Generator().manual_seed(SEED))
    logits = logits_of(run.model, test_documents)[order]
    torch.save({"logits": logits.half(), "labels": test_labels[order].to(torch.uint8)}, arguments.path)
    print(f"{len(order):,} documents, {logits.shape[1]} logits each: {arguments.path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
