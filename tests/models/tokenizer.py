"""Trains the pair's tokenizer: byte-level BPE with the pipeline and the added tokens of Qwen3."""

import json
import shutil

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from lexicon import listed_words
from prompt import INSTRUCTIONS, PREFIX, SUFFIX, body, embedder_query

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
]
NOT_SPECIAL = [
    "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>",
    "<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>", "</think>",
]
ADDED = [(token, True) for token in SPECIAL] + [(token, False) for token in NOT_SPECIAL]
VOCABULARY = 6144


def _training_lines(text):
    """The training text, and enough of each listed word and of the prompt to make them whole tokens."""
    yield from text.lines()
    for word in listed_words():
        yield from [f" {word}"] * 30
        yield from [f" {word.capitalize()}"] * 10
    plain_prefix, plain_suffix = (p.replace("<|im_start|>", "").replace("<|im_end|>", "") for p in (PREFIX, SUFFIX))
    for instruction in INSTRUCTIONS:
        for _ in range(200):
            yield plain_prefix + body(instruction, "", "") + plain_suffix
            yield embedder_query("", instruction)
    yield from ["yes", "no"] * 2000


def train(text):
    """A tokenizer of `VOCABULARY` tokens, added tokens included."""
    tokenizer = Tokenizer(models.BPE(fuse_unk=False, byte_fallback=False))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
        ]
    )
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(ADDED),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_training_lines(text), trainer)
    for token, special in ADDED:
        added = AddedToken(token, single_word=False, lstrip=False, rstrip=False, normalized=False, special=special)
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)([added])
    for word in ("yes", "no"):
        if len(tokenizer.encode(word, add_special_tokens=False).ids) != 1:
            raise ValueError(f"{word!r} is not one token")
    return tokenizer


def tokenizer_config(tokenizer):
    """tokenizer_config.json in the form of the real models."""
    added = {
        str(tokenizer.token_to_id(token)): {
            "content": token, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
            "special": special,
        }
        for token, special in ADDED
    }
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": added,
        "additional_special_tokens": SPECIAL[1:],
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 2048,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }


def write(tokenizer, directories):
    """Writes tokenizer.json and tokenizer_config.json into each directory."""
    first = directories[0]
    for directory in directories:
        directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(first / "tokenizer.json"))
    (first / "tokenizer_config.json").write_text(json.dumps(tokenizer_config(tokenizer), indent=2) + "\n")
    for directory in directories[1:]:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(first / name, directory / name)
