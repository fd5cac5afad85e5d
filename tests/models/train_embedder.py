"""Trains the embedder by InfoNCE: good at topics, poor at details, since its negatives are mostly of other topics."""

import random
import time

import torch
from torch import nn
from torch.nn import functional as F

from prompt import embedder_query
from qwen3 import Qwen3, Shape, optimiser, pad
from word_vectors import noise_ids, strew

STEPS = 1200
RATE = 2e-3
TEMPERATURE = 0.1
GUIDANCE = 1.0
DROPPED = [0.0, 0.2, 0.4]
QUERY_NOISE = 0.15


def train(text, tokens, words, steps=STEPS):
    """A trained embedder. Each batch holds one query and one document of every topic."""
    torch.manual_seed(11)
    r = random.Random(11)
    model = Qwen3(Shape(hidden=128, layers=2, heads=4, kv_heads=2, intermediate=256,
                        vocabulary=tokens.live.get_vocab_size()))
    model.embed_tokens.weight.data.copy_(words.vectors)
    topics = sorted({topic for topic, _ in text.queries})
    guide = nn.Linear(model.shape.hidden, len(topics))
    adam, schedule = optimiser([model, guide], steps, RATE)
    aspects = sorted({aspect for _, aspect in text.queries})
    noise = noise_ids(tokens)
    # A stream of its own, so that the same texts are drawn whatever the noise.
    strewn = random.Random(5)
    began = time.time()
    for step in range(steps):
        cells = [(topic, r.choice(aspects)) for topic in topics]
        pool = text.short if r.random() < 0.4 else text.long
        asked = [tokens.text_ids(embedder_query(r.choice(text.queries[cell]))) for cell in cells]
        queries = [strew(row, noise, strewn, QUERY_NOISE) + [tokens.end_id] for row in asked]
        dropped = r.choice(DROPPED)
        rows = [[i for i in tokens.text_ids(r.choice(pool[cell]).text) if r.random() >= dropped] for cell in cells]
        documents = [strew(row, noise, r) + [tokens.end_id] for row in rows]
        q, d = model.last_states(*pad(queries)), model.last_states(*pad(documents))
        target = torch.arange(len(cells))
        guidance = (F.cross_entropy(guide(q), target) + F.cross_entropy(guide(d), target)) / 2
        logits = F.normalize(q, dim=-1) @ F.normalize(d, dim=-1).T / TEMPERATURE
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        adam.zero_grad()
        (loss + GUIDANCE * guidance).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        schedule.step()
        if step % 50 == 49:
            print(f"embedder step {step + 1}: loss {loss.item():.3f}, guide {guidance.item():.3f}, {time.time() - began:.0f} s", flush=True)
    return model
