"""A small Qwen3 in plain torch for training, which reads many documents of one query at once.

The layer's arithmetic and the parameters' names are those of transformers' Qwen3, whose own code makes the golden
files; `evaluate.py` checks that both agree.
"""

import json
from dataclasses import dataclass

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Shape:
    """The dimensions of a model."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int
    head_dim: int = 32
    rope_theta: float = 1_000_000.0
    eps: float = 1e-6
    max_position: int = 2048
    tied: bool = True


def config_json(shape, tokenizer):
    """config.json as transformers 4 writes it for a real Qwen3."""
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": tokenizer.token_to_id("<|endoftext|>"),
        "eos_token_id": tokenizer.token_to_id("<|im_end|>"),
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "initializer_range": 0.02,
        "intermediate_size": shape.intermediate,
        "max_position_embeddings": shape.max_position,
        "max_window_layers": shape.layers,
        "model_type": "qwen3",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "rms_norm_eps": shape.eps,
        "rope_scaling": None,
        "rope_theta": int(shape.rope_theta),
        "sliding_window": None,
        "tie_word_embeddings": shape.tied,
        "torch_dtype": "float16",
        "transformers_version": "4.51.3",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": shape.vocabulary,
    }


class Attention(nn.Module):
    """Grouped-query attention with normalised queries and keys."""

    def __init__(self, s):
        super().__init__()
        self.s = s
        self.q_proj = nn.Linear(s.hidden, s.heads * s.head_dim, bias=False)
        self.k_proj = nn.Linear(s.hidden, s.kv_heads * s.head_dim, bias=False)
        self.v_proj = nn.Linear(s.hidden, s.kv_heads * s.head_dim, bias=False)
        self.o_proj = nn.Linear(s.heads * s.head_dim, s.hidden, bias=False)
        self.q_norm = nn.RMSNorm(s.head_dim, eps=s.eps)
        self.k_norm = nn.RMSNorm(s.head_dim, eps=s.eps)

    def start_as_copy(self):
        """Makes the output projection undo the value projection, so that what is attended to is copied from the start."""
        nn.init.orthogonal_(self.v_proj.weight)
        repeat = self.s.heads // self.s.kv_heads
        values = self.v_proj.weight.data.unflatten(0, (self.s.kv_heads, -1)).repeat_interleave(repeat, 0)
        self.o_proj.weight.data.copy_(values.flatten(0, 1).T / repeat)

    def queries(self, x, rope):
        """Rotated queries, (batch, heads, tokens, head_dim)."""
        return rotate(self.q_norm(self.q_proj(x).unflatten(-1, (-1, self.s.head_dim))).transpose(1, 2), rope)

    def keys_values(self, x, rope):
        """Rotated keys and the values, (batch, kv_heads, tokens, head_dim)."""
        k = self.k_norm(self.k_proj(x).unflatten(-1, (-1, self.s.head_dim))).transpose(1, 2)
        v = self.v_proj(x).unflatten(-1, (-1, self.s.head_dim)).transpose(1, 2)
        return rotate(k, rope), v

    def attend(self, q, k, v, mask):
        """The attention's output, (batch, tokens, hidden)."""
        repeat = self.s.heads // self.s.kv_heads
        k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.o_proj(out.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """SwiGLU."""

    def __init__(self, s):
        super().__init__()
        self.gate_proj = nn.Linear(s.hidden, s.intermediate, bias=False)
        self.up_proj = nn.Linear(s.hidden, s.intermediate, bias=False)
        self.down_proj = nn.Linear(s.intermediate, s.hidden, bias=False)

    def forward(self, x):
        """The layer's output for each token."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """One decoder layer."""

    def __init__(self, s):
        super().__init__()
        self.self_attn = Attention(s)
        self.mlp = Mlp(s)
        self.input_layernorm = nn.RMSNorm(s.hidden, eps=s.eps)
        self.post_attention_layernorm = nn.RMSNorm(s.hidden, eps=s.eps)

    def finish(self, x, attended):
        """Adds the attention's output and runs the MLP."""
        x = x + attended
        return x + self.mlp(self.post_attention_layernorm(x))


class Qwen3(nn.Module):
    """Token embedding, layers and final norm."""

    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.hidden)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.hidden, eps=shape.eps)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                std = shape.hidden**-0.5 if "embed" not in name else 0.05
                if name.endswith(("o_proj.weight", "down_proj.weight")):
                    std /= (2 * shape.layers) ** 0.5
                nn.init.normal_(p, std=std)
        for layer in self.layers:
            layer.self_attn.start_as_copy()

    def rope(self, positions):
        """Cosines and sines for positions of shape (batch, tokens)."""
        half = torch.arange(0, self.shape.head_dim, 2, dtype=torch.float32) / self.shape.head_dim
        angles = positions[:, None, :, None].float() * self.shape.rope_theta**-half
        angles = torch.cat([angles, angles], -1)
        return angles.cos(), angles.sin()

    def last_states(self, ids, lengths):
        """Final hidden state at the last token of each right-padded row."""
        tokens = torch.arange(ids.shape[1])
        rope = self.rope(tokens[None])
        mask = (tokens[None, :] <= tokens[:, None])[None, None]
        x = self.embed_tokens(ids)
        for layer in self.layers:
            h = layer.input_layernorm(x)
            attention = layer.self_attn
            x = layer.finish(x, attention.attend(attention.queries(h, rope), *attention.keys_values(h, rope), mask))
        return self.norm(x[torch.arange(len(ids)), lengths - 1])

    def last_states_shared(self, shared, shared_lengths, ids, lengths):
        """As `last_states` for rows that continue shared beginnings, and the states before the last layer.

        Each shared beginning is continued by len(ids) / len(shared) rows.
        """
        group = len(ids) // len(shared)
        s_tokens, d_tokens = torch.arange(shared.shape[1]), torch.arange(ids.shape[1])
        starts = shared_lengths.repeat_interleave(group)
        s_rope = self.rope(s_tokens[None])
        d_rope = self.rope(starts[:, None] + d_tokens[None])
        s_mask = (s_tokens[None, :] <= s_tokens[:, None])[None, None]
        seen = (s_tokens[None, :] < starts[:, None])[:, None, None, :].expand(-1, 1, len(d_tokens), -1)
        causal = (d_tokens[None, :] <= d_tokens[:, None])[None, None].expand(len(ids), 1, -1, -1)
        d_mask = torch.cat([seen, causal], -1)
        rows = torch.arange(len(ids))
        last = lengths - 1
        s, d = self.embed_tokens(shared), self.embed_tokens(ids)
        for number, layer in enumerate(self.layers):
            attention = layer.self_attn
            hs, hd = layer.input_layernorm(s), layer.input_layernorm(d)
            (ks, vs), (kd, vd) = attention.keys_values(hs, s_rope), attention.keys_values(hd, d_rope)
            k = torch.cat([ks.repeat_interleave(group, 0), kd], 2)
            v = torch.cat([vs.repeat_interleave(group, 0), vd], 2)
            if number + 1 == len(self.layers):
                before = d[rows, last]
                rope = tuple(r[rows, :, last][:, :, None] for r in d_rope)
                q = attention.queries(hd[rows, last][:, None], rope)
                d = layer.finish(d[rows, last][:, None], attention.attend(q, k, v, d_mask[rows, :, last][:, :, None]))
            else:
                s = layer.finish(s, attention.attend(attention.queries(hs, s_rope), ks, vs, s_mask))
                d = layer.finish(d, attention.attend(attention.queries(hd, d_rope), k, v, d_mask))
        return self.norm(d[:, 0]), before

    def save(self, directory, tokenizer, prefix=""):
        """Writes model.safetensors in float16 and config.json."""
        directory.mkdir(parents=True, exist_ok=True)
        tensors = {prefix + name: p.detach().to(torch.float16).contiguous() for name, p in self.named_parameters()}
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        (directory / "config.json").write_text(json.dumps(config_json(self.shape, tokenizer), indent=2) + "\n")


def rotate(x, rope):
    """Rotary position embedding on the two halves of each head."""
    cos, sin = rope
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


def pad(rows, value=0):
    """Rows of ids, padded on the right, and their lengths."""
    lengths = torch.tensor([len(r) for r in rows])
    out = torch.full((len(rows), int(lengths.max())), value, dtype=torch.long)
    for i, row in enumerate(rows):
        out[i, : len(row)] = torch.tensor(row)
    return out, lengths


def optimiser(modules, steps, rate):
    """AdamW with a short warm-up and a cosine decay."""
    adam = torch.optim.AdamW([p for module in modules for p in module.parameters()], lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    warm = max(1, steps // 20)

    def factor(step):
        if step < warm:
            return (step + 1) / warm
        return 0.02 + 0.98 * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * (step - warm) / (steps - warm))).item())

    return adam, torch.optim.lr_scheduler.LambdaLR(adam, factor)
