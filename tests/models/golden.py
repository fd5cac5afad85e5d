"""Makes the golden files from the stored weights with transformers' own Qwen3 in float32."""

import hashlib
import json
import unicodedata

import torch
from torch.nn import functional as F
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from corpus import judgements, load
from golden_texts import CODE, CONTROL, CUSTOM_INSTRUCTION, MIXED, PAIRS, SCRIPTS
from lexicon import HERE
from prompt import MAX_LENGTH, PREFIX, SUFFIX, TEMPLATES, WEB_SEARCH, PromptTokenizer, embedder_query
from safetensors.torch import load_file

GOLDEN = HERE / "golden"
CASES = 40
STRINGS = 200


def number(value):
    """A float with nine significant digits."""
    return float(f"{float(value):.9g}")


def reference(directory):
    """transformers' model with the stored weights in float32 and eager attention."""
    values = json.loads((directory / "config.json").read_text())
    if "rope_theta" in values:
        values["rope_parameters"] = {"rope_theta": float(values.pop("rope_theta")), "rope_type": "default"}
        values.pop("rope_scaling", None)
    for key in ("torch_dtype", "dtype", "transformers_version"):
        values.pop(key, None)
    config = Qwen3Config(**values, attn_implementation="eager")
    model = Qwen3ForCausalLM(config).to(torch.float32).eval()
    weights = {k if k.startswith(("model.", "lm_head.")) else f"model.{k}": v.float()
               for k, v in load_file(directory / "model.safetensors").items()}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    model.tie_weights()
    assert ("lm_head.weight" in missing) == config.tie_word_embeddings
    return model


def pairs(tokens):
    """Forty (name, instruction, query, document)."""
    documents, questions = load()
    out = list(PAIRS)
    room = MAX_LENGTH - len(tokens.prefix_ids) - len(tokens.suffix_ids)
    query = "what is said at the very end"

    def length(count, filler):
        return len(tokens.text_ids(f"<Instruct>: {WEB_SEARCH}\n<Query>: {query}\n<Document>: {filler * count}"))

    count = next(n for n in range(1, 2000) if length(n, "one ") >= room)
    exact = ("one " * count).rstrip()
    while len(tokens.rerank_ids(WEB_SEARCH, query, exact, 10**6)[0]) > MAX_LENGTH:
        exact = exact[:-4]
    while len(tokens.rerank_ids(WEB_SEARCH, query, exact, 10**6)[0]) < MAX_LENGTH:
        exact += " a"
    out.append(("exactly-at-limit", WEB_SEARCH, query, exact))
    out.append(("one-token-over-limit", WEB_SEARCH, query, exact + " a"))
    instructions = [WEB_SEARCH, *TEMPLATES.values(), CUSTOM_INSTRUCTION]
    seen = {0: 0, 1: 0, 2: 0, 3: 0}
    texts = {q.id: q for q in questions}
    for query_id, grades in judgements(documents, questions).items():
        if len(out) == CASES:
            break
        question = texts[query_id]
        by_grade = {}
        for document in documents:
            if document.topic == question.topic:
                by_grade.setdefault(grades.get(document.id, 0), document)
        grade = min(by_grade, key=lambda g: (seen[g], -g))
        seen[grade] += 1
        instruction = instructions[len(out) % len(instructions)]
        out.append((f"corpus-{query_id}-grade-{grade}", instruction, question.text, by_grade[grade].text))
    assert len(out) == CASES, (len(out), seen)
    return out


@torch.no_grad()
def rerank_golden(name, tokens):
    """The golden scores of one reranker."""
    model = reference(HERE / name)
    rows = []
    for case, instruction, query, document in pairs(tokens):
        ids, truncated = tokens.rerank_ids(instruction, query, document)
        logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
        yes, no = logits[tokens.yes_id], logits[tokens.no_id]
        score = torch.log_softmax(torch.stack([no, yes]), 0)[1].exp()
        rows.append({
            "name": case, "instruction": instruction, "query": query, "document": document, "token_ids": ids,
            "truncated": truncated, "logit_yes": number(yes), "logit_no": number(no),
            "log_odds": number(yes.double() - no.double()), "score": number(score),
        })
    return {
        "model": name, "dtype": "float32", "max_length": MAX_LENGTH, "instruction": WEB_SEARCH,
        "token_yes": tokens.yes_id, "token_no": tokens.no_id,
        "prefix_ids": tokens.prefix_ids, "suffix_ids": tokens.suffix_ids, "pairs": rows,
    }


@torch.no_grad()
def embed_golden(name, tokens):
    """The golden vectors of the embedder."""
    model = reference(HERE / name).model
    documents, questions = load()
    cases = [(f"query-{q.id}", "query", q.text) for q in questions[:8]]
    cases += [("query-empty", "query", ""), ("query-control", "query", CONTROL[0])]
    cases += [("document-empty", "document", ""), ("document-one-token", "document", "yes")]
    cases += [(f"document-{key}", "document", text) for key, text in SCRIPTS.items()]
    cases += [(f"document-control-{i}", "document", text) for i, text in enumerate(CONTROL)]
    cases += [(f"document-code-{i}", "document", text) for i, text in enumerate(CODE)]
    cases += [(f"document-{d.id}", "document", d.text) for d in documents[:: len(documents) // CASES]]
    rows = []
    for case, kind, text in cases[:CASES]:
        ids = tokens.embed_ids(embedder_query(text) if kind == "query" else text)
        state = model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
        vector = F.normalize(state, dim=-1)
        rows.append({"name": case, "kind": kind, "text": text, "token_ids": ids,
                     "embedding": [number(x) for x in vector]})
    assert len(rows) == CASES
    return {"model": name, "dtype": "float32", "instruction": WEB_SEARCH, "texts": rows}


def tokenization_golden(tokens):
    """Ids of mixed strings, with control tokens live and without them."""
    documents, questions = load()
    strings = ["", *MIXED, *SCRIPTS.values(), *CONTROL, *CODE, PREFIX, SUFFIX]
    strings += [unicodedata.normalize("NFD", s) for s in SCRIPTS.values()]
    strings += [q.text for q in questions] + [d.title for d in documents]
    strings = list(dict.fromkeys(strings))[:STRINGS]
    assert len(strings) == STRINGS
    return {
        "strings": [
            {"text": s, "ids": tokens.live.encode(s, add_special_tokens=False).ids, "ids_without_control": tokens.text_ids(s)}
            for s in strings
        ]
    }


def check_official_tokenizer(tokens, directory):
    """transformers' own tokenizer class must give the same ids as the file."""
    official = AutoTokenizer.from_pretrained(directory)
    for text in (PREFIX, SUFFIX, *MIXED, *SCRIPTS.values(), *CONTROL, *CODE):
        ids = official.encode(text, add_special_tokens=False)
        assert ids == tokens.live.encode(text, add_special_tokens=False).ids, text


SELF_TEST_QUERY = "q118"
SELF_TEST_TEXTS = 4


def write_self_test(name, values):
    """What the server tests a model by after each load: texts of the question's topic, apart enough in value that no precision
    changes their order."""
    documents, questions = load()
    question = next(q for q in questions if q.id == SELF_TEST_QUERY)
    texts = [d.text for d in documents if d.topic == question.topic]
    ranked = sorted(zip(values(question.text, texts), texts), reverse=True)
    gap = (ranked[0][0] - ranked[-1][0]) / (2 * SELF_TEST_TEXTS)
    apart = []
    for value, text in ranked:
        if not apart or apart[-1][0] - value >= gap:
            apart.append((value, text))
    assert len(apart) >= SELF_TEST_TEXTS, len(apart)
    chosen = apart[: SELF_TEST_TEXTS - 1] + apart[-1:]
    # Not best first: a model that keeps the order given must not pass.
    chosen = chosen[1:] + chosen[:1]
    folder = HERE / name
    content = {
        "weightsSha256": hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(),
        "instruction": WEB_SEARCH,
        "query": question.text,
        "documents": [{"text": text, "expected": number(value)} for value, text in chosen],
    }
    (folder / "self-test.json").write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def log_odds(name, tokens):
    """A function from a query and texts to a reranker's log-odds."""
    model = reference(HERE / name)

    def values(query, texts):
        out = []
        for text in texts:
            logits = model(input_ids=torch.tensor([tokens.rerank_ids(WEB_SEARCH, query, text)[0]])).logits[0, -1]
            out.append(float(logits[tokens.yes_id].double() - logits[tokens.no_id].double()))
        return out

    return torch.no_grad()(values)


def cosines(name, tokens):
    """A function from a query and texts to the cosines of an embedder's vectors."""
    model = reference(HERE / name).model

    def vector(text):
        state = model(input_ids=torch.tensor([tokens.embed_ids(text)])).last_hidden_state[0, -1]
        return F.normalize(state.double(), dim=-1)

    def values(query, texts):
        asked = vector(embedder_query(query))
        return [float(asked @ vector(text)) for text in texts]

    return torch.no_grad()(values)


def write(name, value):
    """Writes one golden file, a case on each line."""
    (GOLDEN / f"{name}.json").write_text(json.dumps(value, ensure_ascii=False, indent=None, separators=(",", ":"))
                                         .replace('},{"', '},\n{"') + "\n", encoding="utf-8")


def main():
    """Writes every golden file."""
    torch.set_num_threads(1)
    GOLDEN.mkdir(exist_ok=True)
    tokens = PromptTokenizer(HERE / "tiny-reranker")
    check_official_tokenizer(tokens, HERE / "tiny-reranker")
    for name in ("tiny-reranker", "random-tied", "random-untied"):
        golden = rerank_golden(name, tokens)
        write(name, golden)
        scores = sorted(p["score"] for p in golden["pairs"])
        print(f"{name}: scores {scores[0]:.4f} .. {scores[len(scores) // 2]:.4f} .. {scores[-1]:.4f}")
    write("tiny-embedder", embed_golden("tiny-embedder", tokens))
    write("tokenization", tokenization_golden(tokens))
    write_self_test("tiny-reranker", log_odds("tiny-reranker", tokens))
    write_self_test("tiny-embedder", cosines("tiny-embedder", tokens))


if __name__ == "__main__":
    main()
