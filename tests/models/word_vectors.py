"""Gives tokens their first meaning: trains token embeddings to tell the topic and the aspect of a bag of tokens."""

import random
import time
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from lexicon import listed_words
from qwen3 import pad

STEPS = 1200
BATCH = 160
RATE = 5e-3
DROPPED = 0.4
NOISE = 12
SCALE = 0.1


@dataclass(frozen=True)
class Words:
    """Token embeddings, (vocabulary, hidden), and the linear heads that read topic and aspect off their sum."""

    vectors: torch.Tensor
    topic: torch.Tensor
    aspect: torch.Tensor

    def planes(self):
        """Two orthonormal bases of half the dimensions each: what the heads read, and the rest."""
        _, _, basis = torch.linalg.svd(torch.cat([self.topic, self.aspect]))
        half = basis.shape[1] // 2
        return basis[:half], basis[half:]


class Bag(nn.Module):
    """Mean of normalised token embeddings, read by two linear heads."""

    def __init__(self, vocabulary, hidden, topics, aspects):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, hidden)
        nn.init.normal_(self.embed.weight, std=0.05)
        self.topic, self.aspect = nn.Linear(hidden, topics), nn.Linear(hidden, aspects)

    def forward(self, ids, lengths):
        """Logits of the topics and of the aspects."""
        vectors = F.rms_norm(self.embed(ids), self.embed.weight.shape[1:])
        inside = torch.arange(ids.shape[1])[None] < lengths[:, None]
        mean = (vectors * inside[..., None]).sum(1) / lengths[:, None].sqrt()
        return self.topic(mean), self.aspect(mean)


def noise_ids(tokens):
    """Ordinary tokens that are no listed word. Strewn into training they come to mean nothing, so that the pieces of an
    unknown word mislead nobody."""
    ids = [tokens.text_ids(f" {form}") for word in listed_words() for form in (word, word.capitalize())]
    listed = {row[0] for row in ids if len(row) == 1}
    return sorted(set(tokens.plain.get_vocab().values()) - listed)


def strew(ids, noise, r, share=0.25):
    """A copy of ids with noise tokens between them."""
    out = []
    for i in ids:
        out.append(i)
        while r.random() < share:
            out.append(r.choice(noise))
    return out


def train(text, tokens, hidden=128, steps=STEPS):
    """Trained `Words`."""
    torch.manual_seed(10)
    r = random.Random(10)
    topics = {key: i for i, key in enumerate(sorted({t for t, _ in text.queries}))}
    aspects = {key: i for i, key in enumerate(sorted({a for _, a in text.queries}))}
    samples = []
    for pool in (text.short, text.queries):
        for (topic, aspect), items in pool.items():
            for item in items:
                ids = tokens.text_ids(" " + (item if isinstance(item, str) else item.text))
                samples.append((ids, topics[topic], aspects[aspect]))
    bag = Bag(tokens.live.get_vocab_size(), hidden, len(topics), len(aspects))
    adam = torch.optim.AdamW(bag.parameters(), lr=RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.05, steps)
    noise = noise_ids(tokens)
    began = time.time()
    for step in range(steps):
        batch = r.sample(samples, BATCH)
        kept = [[i for i in ids if r.random() > DROPPED] + r.choices(noise, k=r.randint(0, NOISE)) for ids, _, _ in batch]
        topic, aspect = bag(*pad([row or noise[:1] for row in kept]))
        loss_topic = F.cross_entropy(topic, torch.tensor([t for _, t, _ in batch]))
        loss_aspect = F.cross_entropy(aspect, torch.tensor([a for _, _, a in batch]))
        adam.zero_grad()
        (loss_topic + loss_aspect).backward()
        adam.step()
        schedule.step()
        if step % 100 == 99:
            print(f"words step {step + 1}: topic {loss_topic.item():.3f}, aspect {loss_aspect.item():.3f}, "
                  f"{time.time() - began:.0f} s", flush=True)
    vectors = F.rms_norm(bag.embed.weight.detach(), (hidden,))
    return Words(vectors * SCALE, bag.topic.weight.detach(), bag.aspect.weight.detach())
