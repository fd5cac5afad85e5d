"""A rerank server as teams write it: FastAPI, transformers and torch around the code of Qwen3-Reranker's model card.

It stands beside ours in `make peers`. What the card leaves open is chosen as a careful team would: pairs are sorted by length
before they are padded, and with `--logits last` the output head reads only the position that is asked for, where the card's
code computes the logits of every position.
"""

import argparse
import threading

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import AutoModelForCausalLM, AutoTokenizer

PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
MAX_LENGTH = 8192
BATCH_SIZE = 16


class RerankRequest(BaseModel):
    """The body in the shape of Cohere and Jina."""

    query: str
    documents: list[str]
    instruction: str = INSTRUCTION
    top_n: int | None = None
    return_documents: bool = False


class Reranker:
    """Scores pairs, one batch at a time."""

    def __init__(self, directory, dtype, last_only):
        self.tokenizer = AutoTokenizer.from_pretrained(directory, padding_side="left")
        self.model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype).eval()
        self.prefix_ids = self.tokenizer.encode(PREFIX, add_special_tokens=False)
        self.suffix_ids = self.tokenizer.encode(SUFFIX, add_special_tokens=False)
        self.yes_id = self.tokenizer.convert_tokens_to_ids("yes")
        self.no_id = self.tokenizer.convert_tokens_to_ids("no")
        self.logits_to_keep = 1 if last_only else 0
        self.lock = threading.Lock()

    def prompt_ids(self, instruction, query, document):
        """The whole prompt's ids; a document that is too long is cut."""
        body = f"<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}"
        ids = self.tokenizer.encode(body, add_special_tokens=False)
        room = MAX_LENGTH - len(self.prefix_ids) - len(self.suffix_ids)
        return self.prefix_ids + ids[:room] + self.suffix_ids

    @torch.inference_mode()
    def score_batch(self, prompts):
        """P(yes) of each prompt."""
        inputs = self.tokenizer.pad({"input_ids": prompts}, padding=True, return_tensors="pt")
        output = self.model(**inputs, use_cache=False, logits_to_keep=self.logits_to_keep)
        logits = output.logits[:, -1, :]
        pair = torch.stack([logits[:, self.no_id], logits[:, self.yes_id]], dim=1)
        return torch.softmax(pair.float(), dim=1)[:, 1].tolist()

    def scores(self, request):
        """P(yes) of each document in the order of the request, and the number of tokens read."""
        prompts = [self.prompt_ids(request.instruction, request.query, text) for text in request.documents]
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        scores = [0.0] * len(prompts)
        with self.lock:
            for start in range(0, len(order), BATCH_SIZE):
                batch = order[start : start + BATCH_SIZE]
                for index, score in zip(batch, self.score_batch([prompts[index] for index in batch])):
                    scores[index] = score
        return scores, sum(map(len, prompts))


def application(reranker):
    """The routes."""
    app = FastAPI()

    @app.get("/health")
    def health():
        return {"status": "ok"}

    @app.post("/v1/rerank")
    def rerank(request: RerankRequest):
        scores, tokens = reranker.scores(request)
        order = sorted(range(len(scores)), key=lambda index: -scores[index])[: request.top_n]
        results = [{"index": index, "relevance_score": scores[index]} for index in order]
        if request.return_documents:
            for result in results:
                result["document"] = {"text": request.documents[result["index"]]}
        return {"results": results, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}

    return app


def main():
    """Loads the model, then serves on loopback."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder of the model")
    parser.add_argument("--port", required=True, type=int)
    parser.add_argument("--threads", required=True, type=int, help="threads of torch")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--logits", choices=["last", "all"], default="last", help="positions the output head reads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    reranker = Reranker(arguments.model, getattr(torch, arguments.dtype), arguments.logits == "last")
    uvicorn.run(application(reranker), host="127.0.0.1", port=arguments.port, log_level="warning")


if __name__ == "__main__":
    main()
