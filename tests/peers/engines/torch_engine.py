"""transformers and torch as an engine of `make bench-peers`: token ids in, log-odds out, a line of JSON each.

As a careful user runs it: prompts sorted by length, padded on the left, the output head at the last position only.
"""

import argparse
import json
import sys
import time

import torch
from transformers import AutoModelForCausalLM


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    begun = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=getattr(torch, arguments.dtype)).eval()
    print(json.dumps({"load_seconds": time.perf_counter() - begun}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        begun = time.perf_counter()
        log_odds = score(model, arguments.batch, **request)
        print(json.dumps({"seconds": time.perf_counter() - begun, "log_odds": log_odds}), flush=True)


@torch.inference_mode()
def score(model, batch, prompts, yes, no, **_):
    """Log-odds of each prompt, in order."""
    order = sorted(range(len(prompts)), key=lambda at: len(prompts[at]))
    log_odds = [0.0] * len(prompts)
    for first in range(0, len(order), batch):
        chosen = order[first : first + batch]
        longest = max(len(prompts[at]) for at in chosen)
        ids = torch.zeros(len(chosen), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, at in enumerate(chosen):
            ids[row, longest - len(prompts[at]) :] = torch.tensor(prompts[at])
            mask[row, longest - len(prompts[at]) :] = 1
        logits = model(input_ids=ids, attention_mask=mask, logits_to_keep=1).logits[:, -1].float()
        for at, value in zip(chosen, (logits[:, yes] - logits[:, no]).tolist()):
            log_odds[at] = value
    return log_odds


main()
