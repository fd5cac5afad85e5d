"""llama.cpp, through llama-cpp-python's own bindings, as an engine of `make bench-peers`.

As a careful user runs it: several prompts a decode as sequences of their own, the output head at the last positions
only. With `--reuse-prefix` what the prompts share is decoded once and its cells are shared by all sequences.
"""

import argparse
import ctypes
import json
from pathlib import Path

import gguf
import llama_cpp
import numpy

import turns

TYPES = {
    "bfloat16": gguf.GGMLQuantizationType.BF16,
    "float16": gguf.GGMLQuantizationType.F16,
    "int8": gguf.GGMLQuantizationType.Q8_0,
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--precision", choices=list(TYPES), required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--reuse-prefix", action="store_true")
    arguments = parser.parse_args()
    file = arguments.model.with_name(f"{arguments.model.name}-{arguments.precision}.gguf")
    if not file.exists():
        convert(arguments.model, file, TYPES[arguments.precision])

    def load():
        llama_cpp.llama_backend_init()
        model = llama_cpp.llama_model_load_from_file(str(file).encode(), llama_cpp.llama_model_default_params())
        if not model:
            raise SystemExit(f"{file} could not be loaded")
        engine = Engine(model, arguments.threads, arguments.reuse_prefix)
        return engine.score

    turns.answer(load)


class Engine:
    """A loaded model, and a context that grows with what is asked for."""

    def __init__(self, model, threads, reuse_prefix):
        self.model = model
        self.threads = threads
        self.reuse_prefix = reuse_prefix
        self.context = None
        self.room = (0, 0)

    def score(self, prompts, shared, yes, no, batch, **_):
        """Log-odds of each prompt, in order."""
        shared = shared if self.reuse_prefix else 0
        chosen = list(turns.batches(prompts, batch))
        cells = shared + max(sum(len(prompts[at]) - shared for at in group) for group in chosen)
        self.make_room(batch, cells)
        memory = llama_cpp.llama_get_memory(self.context)
        llama_cpp.llama_memory_clear(memory, True)
        if shared:
            self.decode([(0, 0, prompts[0][:shared])], wanted=False)
        log_odds = [0.0] * len(prompts)
        for group in chosen:
            # Sequence 0 holds what is shared.
            for sequence in range(1, len(group) + 1) if shared else ():
                llama_cpp.llama_memory_seq_cp(memory, 0, sequence, -1, -1)
            first = 1 if shared else 0
            rows = self.decode([(first + row, shared, prompts[at][shared:]) for row, at in enumerate(group)])
            for row, at in zip(rows, group):
                logits = llama_cpp.llama_get_logits_ith(self.context, row)
                log_odds[at] = float(logits[yes]) - float(logits[no])
            for sequence in range(first, first + len(group)):
                llama_cpp.llama_memory_seq_rm(memory, sequence, -1, -1)
        return log_odds

    def make_room(self, sequences, cells):
        """Has a context for so many sequences and so many tokens in all."""
        if self.room[0] >= sequences and self.room[1] >= cells:
            return
        if self.context:
            llama_cpp.llama_free(self.context)
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = cells
        parameters.n_batch = cells
        parameters.n_seq_max = sequences + 1
        parameters.kv_unified = True
        parameters.n_threads = parameters.n_threads_batch = self.threads
        self.context = llama_cpp.llama_init_from_model(self.model, parameters)
        if not self.context:
            raise SystemExit(f"no context for {sequences} sequences and {cells} tokens")
        self.room = (sequences, cells)

    def decode(self, parts, wanted=True):
        """Decodes `(sequence, first position, ids)` together. Gives where the last of each stands."""
        total = sum(len(ids) for _, _, ids in parts)
        batch = llama_cpp.llama_batch_init(total, 0, 1)
        at, rows = 0, []
        for sequence, first, ids in parts:
            for position, token in enumerate(ids, first):
                batch.token[at] = token
                batch.pos[at] = position
                batch.n_seq_id[at] = 1
                batch.seq_id[at][0] = sequence
                batch.logits[at] = False
                at += 1
            batch.logits[at - 1] = wanted
            rows.append(at - 1)
        batch.n_tokens = total
        outcome = llama_cpp.llama_decode(self.context, batch)
        llama_cpp.llama_batch_free(batch)
        if outcome != 0:
            raise SystemExit(f"a decode of {total} tokens came to {outcome}")
        return rows


def convert(model, file, kind):
    """A Qwen3 folder of Hugging Face as GGUF without a vocabulary: only ids are ever given."""
    config = json.loads((model / "config.json").read_text())
    layers = config["num_hidden_layers"]
    unfinished = file.with_suffix(".unfinished")
    writer = gguf.GGUFWriter(unfinished, "qwen3")
    writer.add_block_count(layers)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_freq_base(config.get("rope_theta") or config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, layers)
    for name, tensor in tensors(model):
        if name == "lm_head.weight" and config.get("tie_word_embeddings"):
            continue
        new = names.get_name(name, try_suffixes=(".weight",))
        if new is None:
            raise SystemExit(f"{name} has no place in GGUF")
        if tensor.ndim == 1:
            writer.add_tensor(new, tensor)
        else:
            writer.add_tensor(new, gguf.quants.quantize(tensor, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    unfinished.rename(file)


def tensors(model):
    """Names and float32 arrays of all safetensors files."""
    for file in sorted(model.glob("*.safetensors")):
        data = numpy.memmap(file, mode="r")
        length = int.from_bytes(data[:8].tobytes(), "little")
        header = json.loads(data[8 : 8 + length].tobytes())
        header.pop("__metadata__", None)
        for name, entry in header.items():
            begin, end = (8 + length + offset for offset in entry["data_offsets"])
            raw = data[begin:end]
            if entry["dtype"] == "BF16":
                wide = numpy.left_shift(raw.view(numpy.uint16).astype(numpy.uint32), 16).view(numpy.float32)
            else:
                wide = raw.view({"F32": numpy.float32, "F16": numpy.float16}[entry["dtype"]]).astype(numpy.float32)
            yield name, wide.reshape(entry["shape"])


main()
