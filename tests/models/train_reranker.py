"""Trains the reranker: cross-entropy over the two logits of yes and no, with soft targets by grade.

Learnt from nothing, reading and comparing would cost hours on a small machine, so both are laid out and then trained. The
first phase trains to read query and document (see `Guide`) from layers that start as copies; then the last layer's MLP is
laid out to multiply the two readings, which is what its gate and its up projection do by nature; and the second phase
trains the whole model on the answers.
"""

import random
import time

import torch
from torch import nn
from torch.nn import functional as F

from prompt import INSTRUCTIONS
from qwen3 import Qwen3, Shape, optimiser, pad
from word_vectors import noise_ids, strew

READ_STEPS, READ_QUERIES, READ_DOCUMENTS = 500, 10, 4
ANSWER_STEPS, ANSWER_QUERIES = 1100, 4
READ_RATE, ANSWER_RATE = 2e-3, 1e-3
GUIDANCE = 0.3
ANSWERS, TOUCHES, UNRELATED = 0.95, 0.5, 0.03


class Groups:
    """Draws a query with documents, most of which share its topic or its aspect."""

    def __init__(self, text, noise, seed):
        self.text, self.noise, self.r = text, noise, random.Random(seed)
        self.topics = sorted({topic for topic, _ in text.queries})
        self.aspects = sorted({aspect for _, aspect in text.queries})
        self.touching = {}
        for (topic, _), documents in text.long.items():
            for document in documents:
                if document.secondary:
                    self.touching.setdefault((topic, document.secondary), []).append(document)

    def _other(self, values, value):
        while (other := self.r.choice(values)) == value:
            pass
        return other

    def to_read(self):
        """(query, (topic, aspect), documents), the documents drawn from anywhere."""
        pick = self.r.choice
        cell = pick(self.topics), pick(self.aspects)
        cells = [(pick(self.topics), pick(self.aspects)) for _ in range(READ_DOCUMENTS)]
        pools = [self.text.short, self.text.short, self.text.short, self.text.long]
        return pick(self.text.queries[cell]), cell, [pick(pool[c]) for pool, c in zip(pools, cells)]

    def to_answer(self):
        """(query, (topic, aspect), documents): two that answer, one that touches, two of the topic, three of the aspect."""
        pick = self.r.choice
        topic, aspect = pick(self.topics), pick(self.aspects)
        cells = [(topic, aspect)] * 2 + [(topic, self._other(self.aspects, aspect)) for _ in range(2)]
        cells += [(self._other(self.topics, topic), aspect) for _ in range(3)]
        documents = [pick(self.text.long[cell]) for cell in cells]
        documents.append(pick(self.touching.get((topic, aspect)) or self.text.long[topic, aspect]))
        return pick(self.text.queries[topic, aspect]), (topic, aspect), documents


def grade(document, topic, aspect):
    """The soft target of a document for a query on an aspect of a topic."""
    if document.topic != topic:
        return UNRELATED
    if document.main == aspect:
        return ANSWERS
    return TOUCHES if document.secondary == aspect else UNRELATED


class Guide(nn.Module):
    """Reads the query's and the document's topic and aspect off the state before the last layer.

    It starts from the heads of the word vectors, the query's moved to the other plane, and is thrown away after training.
    """

    def __init__(self, words, topics, aspects):
        super().__init__()
        self.topics = {topic: i for i, topic in enumerate(topics)}
        self.aspects = {aspect: i for i, aspect in enumerate(aspects)}
        self.norm = nn.RMSNorm(words.topic.shape[1], elementwise_affine=False)
        meaning, rest = words.planes()
        starts = [words.topic @ meaning.T @ rest, words.aspect @ meaning.T @ rest, words.topic, words.aspect]
        self.heads = nn.ParameterList(start.clone() for start in starts)

    def forward(self, before, cells):
        """The mean cross-entropy of the four readings; a cell is the four keys of a pair."""
        before = self.norm(before)
        numbering = 2 * [self.topics, self.aspects]
        return sum(
            F.cross_entropy(before @ head.T, torch.tensor([numbers[key] for key in column]))
            for head, numbers, column in zip(self.heads, numbering, zip(*cells))
        ) / 4


@torch.no_grad()
def lay_reading(model, words):
    """Lays out the first layers as copies: the first of meaning, the second of meaning twice, once moved to the other
    plane. Training finds which to use for the query and which for the document."""
    meaning, rest = words.planes()
    model.embed_tokens.weight.copy_(words.vectors)
    for layer, moved in zip(model.layers, (meaning, rest)):
        layer.self_attn.v_proj.weight.copy_(torch.cat([meaning, meaning]))
        layer.self_attn.o_proj.weight.copy_(torch.cat([moved, meaning]).T / 2)


def forward(model, tokens, prompts, change=list):
    """Log-odds of yes and the states for the guide, for [(instruction, query, documents)].

    The beginning up to "<Document>:" is encoded apart from the document, which gives the same tokens because no token
    spans the blank before an ordinary word. `change` may alter the ids of documents.
    """
    shared, rows = [], []
    for instruction, query, documents in prompts:
        shared.append(tokens.prefix_ids + tokens.text_ids(f"<Instruct>: {instruction}\n<Query>: {query}\n<Document>:"))
        rows += [change(tokens.text_ids(" " + d)) + tokens.suffix_ids for d in documents]
    states, before = model.last_states_shared(*pad(shared), *pad(rows))
    yes_no = model.embed_tokens.weight[[tokens.yes_id, tokens.no_id]]
    logits = states @ yes_no.T
    return logits[:, 0] - logits[:, 1], before


def products(guide, before):
    """What the comparison yields for each topic and each aspect: the reading of the query times that of the document."""
    before = guide.norm(before)
    heads = [head - head.mean(0) for head in guide.heads]
    return [F.silu(before @ heads[i].T) * (before @ heads[i + 2].T) for i in (0, 1)]


def lay_comparison(model, guide, tokens, batches):
    """Lays out the last layer so that its MLP multiplies what the guide reads of the query and of the document.

    `batches` are states before the last layer with their targets; a logistic regression on them finds how much a match of topic and of aspect
    counts, and how much is taken off for the constant part.
    """
    with torch.no_grad():
        before = torch.cat([states for states, _ in batches])
        targets = torch.cat([target for _, target in batches])
        features = torch.stack([p.sum(-1) for p in products(guide, before)] + [torch.ones(len(before))], 1)
        spread = features.std(0) + (features.std(0) == 0)
    weights = torch.zeros(3, requires_grad=True)
    adam = torch.optim.Adam([weights], lr=0.1)
    for _ in range(300):
        loss = F.binary_cross_entropy_with_logits(features / spread @ weights, targets)
        adam.zero_grad()
        loss.backward()
        adam.step()
    print(f"reranker comparison laid out, answer {loss.item():.3f} before training", flush=True)
    with torch.no_grad():
        weights = weights / spread
        layer, size = model.layers[-1], before.norm(dim=-1).mean()
        layer.self_attn.o_proj.weight.mul_(0.1)
        layer.post_attention_layernorm.weight.fill_(1.0)
        heads = [head - head.mean(0) for head in guide.heads]
        topics, units = len(heads[0]), len(heads[0]) + len(heads[1])
        constant = guide.norm(before).mean(0)
        constant = constant / constant.square().sum()
        yes, no = model.embed_tokens.weight[[tokens.yes_id, tokens.no_id]]
        column = (yes - no) / (yes - no).square().sum() * size / before.shape[1] ** 0.5
        mlp = layer.mlp
        mlp.gate_proj.weight[: units + 1] = torch.cat([*heads[:2], 4 * constant[None]])
        mlp.up_proj.weight[: units + 1] = torch.cat([*heads[2:], constant[None]])
        mlp.down_proj.weight.mul_(0.1)
        mlp.down_proj.weight[:, :topics] = column[:, None] * weights[0]
        mlp.down_proj.weight[:, topics:units] = column[:, None] * weights[1]
        mlp.down_proj.weight[:, units] = column * weights[2] / F.silu(torch.tensor(4.0))


def batch_of(model, tokens, groups, drawn, r):
    """Log-odds, states before the last layer, targets and cells of drawn groups."""
    prompts, targets, cells = [], [], []
    for query, cell, documents in drawn:
        prompts.append((r.choice(INSTRUCTIONS), query, [d.text for d in documents]))
        targets += [grade(d, *cell) for d in documents]
        cells += [(*cell, d.topic, d.main) for d in documents]
    odds, before = forward(model, tokens, prompts, lambda ids: strew(ids, groups.noise, r, r.choice([0.0, 0.15, 0.3])))
    return odds, before, torch.tensor(targets), cells


def phase(model, guide, tokens, groups, steps, rate, draw, answering):
    """One phase of training."""
    r = random.Random(13)
    adam, schedule = optimiser([model, guide], steps, rate)
    began, losses = time.time(), []
    for step in range(steps):
        odds, before, targets, cells = batch_of(model, tokens, groups, draw(), r)
        guidance = guide(before, cells)
        answer = F.binary_cross_entropy_with_logits(odds, targets)
        adam.zero_grad()
        (answer + GUIDANCE * guidance if answering else guidance).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        schedule.step()
        losses.append((answer.item(), guidance.item()))
        if step % 25 == 24:
            means = [sum(column) / 25 for column in zip(*losses[-25:])]
            print(f"reranker step {step + 1}: answer {means[0]:.3f}, guide {means[1]:.3f}, "
                  f"{time.time() - began:.0f} s", flush=True)


def train(text, tokens, words, read_steps=READ_STEPS, answer_steps=ANSWER_STEPS):
    """A trained reranker."""
    torch.manual_seed(12)
    groups = Groups(text, noise_ids(tokens), 12)
    model = Qwen3(Shape(hidden=128, layers=3, heads=4, kv_heads=4, intermediate=384,
                        vocabulary=tokens.live.get_vocab_size()))
    lay_reading(model, words)
    guide = Guide(words, groups.topics, groups.aspects)

    def to_read():
        return [groups.to_read() for _ in range(READ_QUERIES)]

    def to_answer():
        return [groups.to_answer() for _ in range(ANSWER_QUERIES)]

    phase(model, guide, tokens, groups, read_steps, READ_RATE, to_read, answering=False)
    r = random.Random(14)
    with torch.no_grad():
        batches = [batch_of(model, tokens, groups, to_answer(), r)[1:3] for _ in range(15)]
    lay_comparison(model, guide, tokens, batches)
    phase(model, guide, tokens, groups, answer_steps, ANSWER_RATE, to_answer, answering=True)
    return model
