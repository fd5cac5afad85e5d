"""Reads the hand-written word lists: topics, aspects and common words."""

from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Topic:
    """What documents and questions are about, with the words of its trade."""

    key: str
    names: list[str]
    people: list[str]
    acts: list[str]
    things: list[str]
    places: list[str]
    words: list[str]
    facts: list[str]


@dataclass(frozen=True)
class Aspect:
    """A detail that any topic may have, such as its cost or its noise."""

    key: str
    words: list[str]
    says: list[str]
    asks: list[str]


def _blocks(path):
    """Yields (key, {field: single line or list of lines}) for each `[key]` block of a word list."""
    key, fields, current = None, {}, None
    for raw in path.read_text(encoding="utf-8").splitlines():
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("[") and line.endswith("]"):
            if key:
                yield key, fields
            key, fields, current = line[1:-1], {}, None
            continue
        head, colon, rest = line.partition(":")
        if colon and " " not in head and head.islower():
            current = head
            fields[current] = rest.strip() or []
        else:
            fields[current].append(line)
    yield key, fields


def _split(line, separator):
    return [part.strip() for part in line.split(separator)]


def load_topics():
    """All topics in file order."""
    topics = []
    for key, f in _blocks(HERE / "topics.txt"):
        lists = {name: _split(f[name], "|") for name in ("names", "people", "acts", "places")}
        topics.append(Topic(key=key, things=_split(f["things"], "|"), words=f["words"].split(), facts=f["facts"], **lists))
    return topics


def load_aspects():
    """All aspects in file order."""
    return [
        Aspect(key=key, words=_split(f["words"], ","), says=f["says"], asks=f["asks"])
        for key, f in _blocks(HERE / "aspects.txt")
    ]


def load_common_words():
    """Words without a topic, for filler."""
    return (HERE / "common_words.txt").read_text(encoding="utf-8").split()


def listed_words():
    """Every single word of topics and aspects, in a fixed order."""
    phrases = [p for t in load_topics() for p in [*t.names, *t.people, *t.acts, *t.things, *t.words]]
    phrases += [w for a in load_aspects() for w in a.words]
    return sorted({word for phrase in phrases for word in phrase.split()})
