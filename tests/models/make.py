"""Makes everything: corpus, tokenizer, models, golden files, figures and model cards."""

import json
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor

import torch
from tokenizers import Tokenizer

import cards
import corpus
import golden
import random_models
import tokenizer
import train_embedder
import train_reranker
import word_vectors
from evaluate import evaluate
from leak_check import shared_runs
from lexicon import HERE
from prompt import PromptTokenizer
from training_text import generate

POOLING = {
    "word_embedding_dimension": 128,
    "pooling_mode_cls_token": False,
    "pooling_mode_mean_tokens": False,
    "pooling_mode_max_tokens": False,
    "pooling_mode_mean_sqrt_len_tokens": False,
    "pooling_mode_weightedmean_tokens": False,
    "pooling_mode_lasttoken": True,
    "include_prompt": True,
}
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
]
SENTENCE_TRANSFORMERS = {
    "prompts": {
        "query": "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:",
        "document": "",
    },
    "default_prompt_name": None,
    "similarity_fn_name": "cosine",
}


def write_json(path, value):
    """Writes readable JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n")


def make_embedder(bpe_text, words):
    """Trains and writes the embedder; runs in a process of its own."""
    torch.set_num_threads(1)
    bpe, directory = Tokenizer.from_str(bpe_text), HERE / "tiny-embedder"
    train_embedder.train(generate(), PromptTokenizer(directory), words).save(directory, bpe)
    write_json(directory / "modules.json", MODULES)
    write_json(directory / "1_Pooling" / "config.json", POOLING)
    write_json(directory / "config_sentence_transformers.json", SENTENCE_TRANSFORMERS)


def make_reranker(bpe_text, words):
    """Trains and writes the reranker; runs in a process of its own."""
    torch.set_num_threads(1)
    bpe, directory = Tokenizer.from_str(bpe_text), HERE / "tiny-reranker"
    train_reranker.train(generate(), PromptTokenizer(directory), words).save(directory, bpe, prefix="model.")


def main():
    """Runs every step in order. Each process uses one thread, which makes the sums repeatable."""
    torch.set_num_threads(1)
    began = time.time()
    corpus.write(*corpus.load())
    text = generate()
    assert not shared_runs(text), "training text shares a run of words with the test texts"
    bpe = tokenizer.train(text)
    names = ("tiny-reranker", "tiny-embedder", "random-tied", "random-untied")
    tokenizer.write(bpe, [HERE / name for name in names])
    words = word_vectors.train(text, PromptTokenizer(HERE / "tiny-reranker"))
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        for job in [pool.submit(make, bpe.to_str(), words) for make in (make_embedder, make_reranker)]:
            job.result()

    random_models.make(HERE / "random-tied", True, 1, 10_000.0, bpe)
    random_models.newer_config(HERE / "random-tied")
    random_models.make(HERE / "random-untied", False, 2, 1_000_000.0, bpe)

    figures = evaluate() | {"training_text_sha256": text.sha256()}
    write_json(HERE / "figures.json", figures)
    print(json.dumps(figures, indent=2))
    cards.write(figures)
    golden.main()
    print(f"made in {time.time() - began:.0f} s")


if __name__ == "__main__":
    main()
