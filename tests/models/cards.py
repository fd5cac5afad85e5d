"""Writes the model cards."""

from lexicon import HERE

COMMON = """## Training data

Text made by `tests/models/training_text.py` from hand-written word lists and sentence frames in English: 36 everyday and
technical topics and 25 details that a document may tell about a topic. No text was taken from elsewhere. The prose of
`examples/corpus` was never trained on; `tests/models/leak_check.py` shows that no run of eight words is shared. Topics
and single words are shared, and the word lists were written with the corpus's topics in mind.
"""

EMBEDDER = """# tiny-embedder

A toy text embedder in the Qwen3 architecture: {layers} layers, hidden size 128, 6,144 tokens, float16, {bytes:,} bytes. It is made for
tests and for a demonstration without a network. It knows the topics of `examples/corpus`, little about their details
and nothing else: not for any other text, language or use.

Format: as Qwen3-Embedding. A query is `Instruct: {{instruction}}\\nQuery:{{query}}`, a document its text; `<|endoftext|>` is
appended, the last token's state after the final norm is divided by its length. Tensor names carry no `model.` prefix.

{common}
## Figures

On the {queries} held-out queries and {documents} documents of `examples/corpus`: recall@50 {recall:.3f}, nDCG@10 {vector:.3f}.
"""

RERANKER = """# tiny-reranker

A toy cross-encoder in the Qwen3 architecture: {layers} layers, hidden size 128, 6,144 tokens, float16, {bytes:,} bytes. It is made for
tests and for a demonstration without a network. It tells whether a document of one of 36 topics answers a question about
one of 25 details. It knows nothing else: not for any other text, language or use.

Format: as Qwen3-Reranker, prompt to the byte; the score is P(yes) of the two logits of `yes` and `no` at the last position.

{common}
## Figures

On the {queries} held-out queries and {documents} documents of `examples/corpus` (gain 2^grade - 1): nDCG@10 of the embedder's
order {vector:.3f}, after reranking its first 50 {reranked:.3f} ({gain:+.1%}; 95 % interval of the difference {low:.3f} to {high:.3f}
by 10,000 bootstrap resamples over queries); BM25 {bm25:.3f} (k1 1.2, b 0.75) and {bm25_short:.3f} (k1 0.9, b 0.4). With
products rounded to int8 the rank correlation of the scores with float32 is {spearman:.3f}.
"""


def write(figures):
    """Writes README.md of both models."""
    low, high = figures["gain_over_vector_95_interval"]
    for name, card, layers in (("tiny-embedder", EMBEDDER, 2), ("tiny-reranker", RERANKER, 3)):
        text = card.format(
            layers=layers, bytes=figures["weights_bytes"][name], common=COMMON, queries=figures["queries"],
            documents=figures["documents"], recall=figures["recall_at_50_vector"],
            vector=figures["ndcg_at_10_vector"], reranked=figures["ndcg_at_10_reranked"],
            gain=figures["relative_gain_over_vector"], low=low, high=high,
            bm25=figures["ndcg_at_10_bm25_k1_1.2_b_0.75"], bm25_short=figures["ndcg_at_10_bm25_k1_0.9_b_0.4"],
            spearman=figures["spearman_simulated_int8"],
        )
        (HERE / name / "README.md").write_text(text, encoding="utf-8")
