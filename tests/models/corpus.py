"""Reads the hand-written corpus and writes it in BEIR's layout. Standard library only."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from lexicon import HERE, load_aspects, load_topics

OUTPUT = HERE.parent.parent / "examples" / "corpus"


@dataclass(frozen=True)
class Entry:
    """One document and the aspects it treats, with their grades."""

    id: str
    topic: str
    grades: dict
    title: str
    text: str


@dataclass(frozen=True)
class Question:
    """One test query and the aspect it asks about."""

    id: str
    topic: str
    aspect: str
    text: str


def load(path=HERE / "corpus.txt"):
    """All documents and questions in file order, checked."""
    topics, aspects = {t.key for t in load_topics()}, {a.key for a in load_aspects()}
    documents, questions, topic, grades, title = [], [], None, None, None
    for raw in Path(path).read_text(encoding="utf-8").splitlines():
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("= "):
            topic, number = line[2:], 0
            assert topic in topics, topic
        elif line.startswith("@ "):
            main, *others = line[2:].split()
            grades = {main: 3} | {o[1:].split("=")[0]: int(o.split("=")[1]) for o in others}
            assert grades.keys() <= aspects, line
            title = None
        elif line.startswith("? "):
            aspect, text = (part.strip() for part in line[2:].split("|"))
            assert aspect in aspects, line
            questions.append(Question(f"q{len(questions) + 1:03}", topic, aspect, text))
        elif title is None:
            title = line
        else:
            number += 1
            assert 40 <= len(line.split()) <= 120, (len(line.split()), line)
            documents.append(Entry(f"{topic}-{number}", topic, grades, title, line))
    return documents, questions


def judgements(documents, questions):
    """{query id: {document id: grade}}, grades above zero only."""
    return {
        q.id: {d.id: d.grades[q.aspect] for d in documents if d.topic == q.topic and q.aspect in d.grades}
        for q in questions
    }


def write(documents, questions):
    """Writes corpus.jsonl, queries.jsonl and qrels/test.tsv."""
    (OUTPUT / "qrels").mkdir(parents=True, exist_ok=True)

    def lines(path, rows):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (OUTPUT / path).write_text(text, encoding="utf-8")

    lines("corpus.jsonl", ({"_id": d.id, "title": d.title, "text": d.text} for d in documents))
    lines("queries.jsonl", ({"_id": q.id, "text": q.text} for q in questions))
    rows = ["query-id\tcorpus-id\tscore\n"]
    for query, grades in judgements(documents, questions).items():
        assert max(grades.values(), default=0) >= 2, query
        rows += [f"{query}\t{document}\t{grade}\n" for document, grade in grades.items()]
    (OUTPUT / "qrels" / "test.tsv").write_text("".join(rows), encoding="utf-8")


def words(text):
    """Lower-cased words without punctuation."""
    return re.findall(r"[^\W_]+", text.lower())


if __name__ == "__main__":
    all_documents, all_questions = load()
    write(all_documents, all_questions)
    print(f"{len(all_documents)} documents, {len(all_questions)} queries")
