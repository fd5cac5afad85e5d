"""Checks that no run of eight words of a test document or test query occurs in the training text.

Standard library only: the training text is made again from its word lists and compared with the digest in figures.json.
"""

import json
import sys

from corpus import load, words
from lexicon import HERE
from training_text import generate

RUN = 8


def runs(text):
    """All runs of eight words of a text; a shorter text is one run."""
    w = words(text)
    return {" ".join(w[i : i + RUN]) for i in range(max(1, len(w) - RUN + 1))}


def shared_runs(text):
    """(test text id, run) for each run that occurs in the training text too."""
    documents, questions = load()
    test = {}
    for item in [*documents, *questions]:
        for run in runs(item.text):
            test.setdefault(run, item.id)
    found = set()
    for line in text.lines():
        found |= {(test[run], run) for run in runs(line) if run in test}
    return sorted(found)


def main():
    """Exits with 1 if anything is shared or the training text is not the recorded one."""
    text = generate()
    shared = shared_runs(text)
    for item, run in shared:
        print(f"shared with {item}: {run}")
    figures = HERE / "figures.json"
    recorded = json.loads(figures.read_text())["training_text_sha256"] if figures.exists() else None
    digest = text.sha256()
    print(f"training text {digest}, {len(shared)} shared runs of {RUN} words")
    if recorded not in (None, digest):
        print(f"but the models were trained on {recorded}")
    sys.exit(bool(shared) or recorded not in (None, digest))


if __name__ == "__main__":
    main()
