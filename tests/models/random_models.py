"""Makes the random rerankers of the golden tests: one with a tied head, one with a head of its own."""

import json

import torch
from safetensors.torch import load_file, save_file

from qwen3 import Qwen3, Shape

STD = 0.25


def make(directory, tied, seed, rope_theta, tokenizer):
    """A seeded 2-layer model whose scores are spread widely."""
    torch.manual_seed(seed)
    shape = Shape(hidden=64, layers=2, heads=4, kv_heads=2, intermediate=128, tied=tied, rope_theta=rope_theta,
                  vocabulary=tokenizer.get_vocab_size())
    model = Qwen3(shape)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() == 2:
                p.normal_(std=STD)
            else:
                p.copy_(1 + 0.2 * torch.randn_like(p))
        head = torch.randn(shape.vocabulary, shape.hidden) * STD
    model.save(directory, tokenizer, prefix="model.")
    if not tied:
        path = directory / "model.safetensors"
        tensors = load_file(path) | {"lm_head.weight": head.to(torch.float16)}
        save_file(tensors, path, metadata={"format": "pt"})


def newer_config(directory):
    """Rewrites config.json as transformers 5 does, with rope_parameters in place of rope_theta."""
    path = directory / "config.json"
    config = json.loads(path.read_text())
    theta = config.pop("rope_theta")
    del config["rope_scaling"]
    config["dtype"] = config.pop("torch_dtype")
    config["rope_parameters"] = {"rope_theta": theta, "rope_type": "default"}
    config["transformers_version"] = "5.23.0"
    path.write_text(json.dumps(config, indent=2) + "\n")
