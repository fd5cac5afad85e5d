"""transformers and torch as an engine of `make bench-peers`.

As a careful user runs it: prompts sorted by length, padded on the left, the output head at the last position only.
"""

import argparse

import torch
from transformers import AutoModelForCausalLM

import turns


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--precision", choices=["float32", "bfloat16", "int8"], required=True)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    def load():
        is_int8 = arguments.precision == "int8"
        dtype = torch.float32 if is_int8 else getattr(torch, arguments.precision)
        model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=dtype).eval()
        if is_int8:
            # The layers, whose rows are rounded as they come; the head stays as it is, as ours does.
            model.model = torch.ao.quantization.quantize_dynamic(model.model, {torch.nn.Linear}, torch.qint8)
        return lambda **request: score(model, **request)

    turns.answer(load)


@torch.inference_mode()
def score(model, prompts, yes, no, batch, **_):
    """Log-odds of each prompt, in order."""
    log_odds = [0.0] * len(prompts)
    for chosen in turns.batches(prompts, batch):
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
