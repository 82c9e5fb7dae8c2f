"""Predicts with the exported classifier, in a process that knows the operators' library and not the Python package.

``python -m examples.newsgroups.predict --library … --model … --documents … --probabilities …``
"""

import argparse
import json
import sys

import torch

FIRST_WORDS = 12
TOP = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", required=True, help="the shared library that registers the operators")
    parser.add_argument("--model", required=True, help="the TorchScript module")
    parser.add_argument("--documents", required=True, help="what to predict: features, texts and true classes")
    parser.add_argument("--probabilities", required=True, help="where to save the answers")
    parser.add_argument("--temperatures", required=True, type=float, nargs="+")
    arguments = parser.parse_args()

    torch.ops.load_library(arguments.library)
    assert "softmax_ext" not in sys.modules

    extra_files = {"class_names.json": ""}
    predictor = torch.jit.load(arguments.model, _extra_files=extra_files)
    class_names = json.loads(extra_files["class_names.json"])
    documents = torch.load(arguments.documents, weights_only=True)
    with torch.no_grad():
        probabilities = {t: predictor(documents["features"], t) for t in arguments.temperatures}
    torch.save(probabilities, arguments.probabilities)

    for row, (text, label) in enumerate(zip(documents["texts"], documents["labels"], strict=True)):
        print(f"  “{' '.join(text.split()[:FIRST_WORDS])} …” from {class_names[label]}")
        for temperature, rows in probabilities.items():
            top = rows[row].topk(TOP)
            shares = zip(top.values.tolist(), top.indices.tolist(), strict=True)
            answers = "".join(f"   {probability:6.1%} {class_names[index]:<24}" for probability, index in shares)
            print(f"    T = {temperature:g}{answers}".rstrip())


if __name__ == "__main__":
    main()
