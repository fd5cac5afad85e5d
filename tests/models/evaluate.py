"""Measures the pair on the held-out queries: recall, nDCG of vectors, BM25 and reranking, and what int8 does."""

import json
import math
from collections import Counter

import numpy as np
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from corpus import judgements, load, words
from lexicon import HERE
from prompt import WEB_SEARCH, PromptTokenizer, embedder_query
from qwen3 import Qwen3, Shape, pad
from train_reranker import forward

CANDIDATES = 50
CUT = 10
RESAMPLES = 10_000


def load_model(directory):
    """The stored float16 weights in float32."""
    c = json.loads((directory / "config.json").read_text())
    shape = Shape(hidden=c["hidden_size"], layers=c["num_hidden_layers"], heads=c["num_attention_heads"],
                  kv_heads=c["num_key_value_heads"], intermediate=c["intermediate_size"],
                  vocabulary=c["vocab_size"], head_dim=c["head_dim"], rope_theta=float(c["rope_theta"]))
    model = Qwen3(shape)
    weights = load_file(directory / "model.safetensors")
    model.load_state_dict({k.removeprefix("model."): v.float() for k, v in weights.items()})
    return model.eval()


@torch.no_grad()
def embed(model, tokens, texts):
    """Unit vectors of texts."""
    rows = [tokens.embed_ids(t) for t in texts]
    parts = [model.last_states(*pad(rows[i : i + 32])) for i in range(0, len(rows), 32)]
    return F.normalize(torch.cat(parts), dim=-1).numpy()


@torch.no_grad()
def rerank(model, tokens, query, texts, instruction=WEB_SEARCH):
    """Log-odds of yes for each text."""
    return forward(model, tokens, [(instruction, query, texts)])[0].numpy()


def bm25(documents, k1, b):
    """A function from a query to its scores on the documents."""
    bags = [Counter(words(d)) for d in documents]
    sizes = [sum(bag.values()) for bag in bags]
    mean = sum(sizes) / len(sizes)
    df = Counter(w for bag in bags for w in bag)

    def scores(query):
        out = np.zeros(len(bags))
        for w in words(query):
            idf = math.log(1 + (len(bags) - df[w] + 0.5) / (df[w] + 0.5))
            for i, bag in enumerate(bags):
                tf = bag[w]
                out[i] += idf * tf * (k1 + 1) / (tf + k1 * (1 - b + b * sizes[i] / mean))
        return out

    return scores


def ndcg(order, grades):
    """nDCG at 10 with gains 2^grade - 1; `order` is document ids, `grades` the judgements of the query."""

    def dcg(values):
        return sum((2**g - 1) / math.log2(i + 2) for i, g in enumerate(values[:CUT]))

    return dcg([grades.get(d, 0) for d in order]) / dcg(sorted(grades.values(), reverse=True))


def interval(differences, seed=7):
    """The bootstrap 95 % interval of the mean over queries."""
    rng = np.random.default_rng(seed)
    differences = np.asarray(differences)
    picks = rng.integers(0, len(differences), (RESAMPLES, len(differences)))
    return [round(float(x), 4) for x in np.percentile(differences[picks].mean(1), [2.5, 97.5])]


def ranks(values):
    """Average ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def spearman(a, b):
    """Spearman's rank correlation."""
    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def quantised(model):
    """A copy of the model whose products run on rounded numbers: weights to int8 for each output channel, activations
    to int8 for each token."""
    copy = Qwen3(model.shape)
    copy.load_state_dict(model.state_dict())

    def rounded(x):
        scale = x.abs().amax(-1, keepdim=True).clamp(min=1e-9) / 127
        return (x / scale).round() * scale

    for module in copy.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.data = rounded(module.weight.data)
            module.register_forward_pre_hook(lambda _, inputs: (rounded(inputs[0]),))
    return copy.eval()


def evaluate():
    """All figures."""
    documents, questions = load()
    grades = judgements(documents, questions)
    ids, texts = [d.id for d in documents], [d.text for d in documents]
    tokens = PromptTokenizer(HERE / "tiny-embedder")
    embedder, reranker = load_model(HERE / "tiny-embedder"), load_model(HERE / "tiny-reranker")
    rounded = quantised(reranker)
    vectors = embed(embedder, tokens, texts)
    queries = embed(embedder, tokens, [embedder_query(q.text) for q in questions])
    plain_bm25, short_bm25 = bm25(texts, 1.2, 0.75), bm25(texts, 0.9, 0.4)
    per_query = {name: [] for name in ("recall", "vector", "reranked", "int8", "bm25", "bm25_short")}
    exact, coarse = [], []
    for question, vector in zip(questions, queries):
        wanted = grades[question.id]
        order = np.argsort(-(vectors @ vector), kind="stable")
        top = order[:CANDIDATES]
        odds = rerank(reranker, tokens, question.text, [texts[i] for i in top])
        odds8 = rerank(rounded, tokens, question.text, [texts[i] for i in top])
        exact.append(odds)
        coarse.append(odds8)
        per_query["recall"].append(np.mean([d in {ids[i] for i in top} for d in wanted]))
        orders = {
            "vector": order,
            "reranked": top[np.argsort(-odds, kind="stable")],
            "int8": top[np.argsort(-odds8, kind="stable")],
            "bm25": np.argsort(-plain_bm25(question.text), kind="stable"),
            "bm25_short": np.argsort(-short_bm25(question.text), kind="stable"),
        }
        for name, o in orders.items():
            per_query[name].append(ndcg([ids[i] for i in o], wanted))
    means = {name: round(float(np.mean(values)), 4) for name, values in per_query.items()}
    gain = np.subtract(per_query["reranked"], per_query["vector"])
    over_bm25 = np.subtract(per_query["reranked"], per_query["bm25"])
    exact, coarse = np.concatenate(exact), np.concatenate(coarse)
    scores = 1 / (1 + np.exp(-exact))
    return {
        "documents": len(documents),
        "queries": len(questions),
        "judgements": sum(map(len, grades.values())),
        "gain": "2^grade - 1",
        "relevant_for_recall": "grade >= 1",
        "recall_at_50_vector": means["recall"],
        "ndcg_at_10_vector": means["vector"],
        "ndcg_at_10_reranked": means["reranked"],
        "ndcg_at_10_reranked_simulated_int8": means["int8"],
        "ndcg_at_10_bm25_k1_1.2_b_0.75": means["bm25"],
        "ndcg_at_10_bm25_k1_0.9_b_0.4": means["bm25_short"],
        "relative_gain_over_vector": round(means["reranked"] / means["vector"] - 1, 4),
        "gain_over_vector_95_interval": interval(gain),
        "gain_over_bm25_95_interval": interval(over_bm25),
        "queries_better_equal_worse": [int((gain > 1e-9).sum()), int((abs(gain) <= 1e-9).sum()),
                                       int((gain < -1e-9).sum())],
        "spearman_simulated_int8": round(spearman(exact, coarse), 4),
        "score_quantiles_0_5_50_95_100": [round(float(x), 4) for x in np.percentile(scores, [0, 5, 50, 95, 100])],
        "weights_bytes": {
            name: (HERE / name / "model.safetensors").stat().st_size for name in ("tiny-embedder", "tiny-reranker")
        },
    }


if __name__ == "__main__":
    print(json.dumps(evaluate(), indent=2))
