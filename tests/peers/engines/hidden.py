"""What engines do that give hidden states and not logits: the two rows of the output head that a score needs."""

import json
from pathlib import Path

import numpy
import torch
from safetensors import safe_open

import turns


def head(model, yes, no):
    """The difference of two rows of the output head, which may be that of the embeddings."""
    tied = json.loads((Path(model) / "config.json").read_text()).get("tie_word_embeddings")
    wanted = "model.embed_tokens.weight" if tied else "lm_head.weight"
    for file in Path(model).glob("*.safetensors"):
        with safe_open(file, framework="pt") as tensors:
            if wanted in tensors.keys():
                rows = tensors.get_slice(wanted)
                return (rows[yes : yes + 1].to(torch.float32) - rows[no : no + 1].to(torch.float32)).numpy()[0]
    raise SystemExit(f"{wanted} is in no file of {model}")


def score(model, states, prompts, yes, no, batch, **_):
    """Log-odds of each prompt, in order. `states(ids, mask)` gives hidden states after the last norm."""
    difference = head(model, yes, no)
    log_odds = [0.0] * len(prompts)
    for chosen in turns.batches(prompts, batch):
        longest = max(len(prompts[at]) for at in chosen)
        ids = numpy.zeros((len(chosen), longest), dtype=numpy.int64)
        mask = numpy.zeros_like(ids)
        for row, at in enumerate(chosen):
            # Attention is causal: what is padded on the right is seen by nothing that counts.
            ids[row, : len(prompts[at])] = prompts[at]
            mask[row, : len(prompts[at])] = 1
        hidden = states(ids, mask)
        for row, at in enumerate(chosen):
            log_odds[at] = float(hidden[row, len(prompts[at]) - 1].astype(numpy.float32) @ difference)
    return log_odds
