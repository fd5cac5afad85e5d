"""The reranker's prompt and the embedder's input, to the byte, and the tokenizer that cannot be spoken through."""

import json
from pathlib import Path

from tokenizers import Tokenizer

PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
END_TOKEN = "<|endoftext|>"
WEB_SEARCH = "Given a web search query, retrieve relevant passages that answer the query"
TEMPLATES = {
    "general": "Given the query and document, determine if the document is relevant to the query.",
    "technical": "Assess if this technical document provides useful information for the technical query.",
    "code": "Determine if this code snippet is relevant to the programming query.",
    "qa": "Check if this document contains information that answers the question.",
}
INSTRUCTIONS = [WEB_SEARCH, *TEMPLATES.values()]
MAX_LENGTH = 512


def body(instruction, query, document):
    """The part of the prompt that users write."""
    return f"<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}"


def embedder_query(query, instruction=WEB_SEARCH):
    """A query as the embedder reads it; documents are read as they are."""
    return f"Instruct: {instruction}\nQuery:{query}"


class PromptTokenizer:
    """Encodes template text with control tokens and user text without them."""

    def __init__(self, directory):
        path = Path(directory) / "tokenizer.json"
        self.live = Tokenizer.from_file(str(path))
        plain = json.loads(path.read_text(encoding="utf-8"))
        plain["added_tokens"] = []
        self.plain = Tokenizer.from_str(json.dumps(plain))
        self.prefix_ids = self.live.encode(PREFIX, add_special_tokens=False).ids
        self.suffix_ids = self.live.encode(SUFFIX, add_special_tokens=False).ids
        self.end_id = self.live.token_to_id(END_TOKEN)
        self.yes_id = self.plain.token_to_id("yes")
        self.no_id = self.plain.token_to_id("no")

    def text_ids(self, text):
        """Ids of user text, in which control tokens are ordinary characters."""
        return self.plain.encode(text, add_special_tokens=False).ids

    def rerank_ids(self, instruction, query, document, max_length=MAX_LENGTH):
        """The whole prompt's ids, and whether the document was cut."""
        ids = self.text_ids(body(instruction, query, document))
        room = max_length - len(self.prefix_ids) - len(self.suffix_ids)
        return self.prefix_ids + ids[:room] + self.suffix_ids, len(ids) > room

    def embed_ids(self, text):
        """Ids of a text for the embedder, end token included."""
        return self.text_ids(text) + [self.end_id]
