"""Makes the training text from the word lists. Standard library only and deterministic for a seed.

A training document tells one aspect of one topic (its main aspect), often a second one in passing, and is padded with
facts of the topic, stray words of other aspects and filler, so that a model has to weigh evidence.
"""

import hashlib
import random
import re
from dataclasses import dataclass

from lexicon import load_aspects, load_common_words, load_topics

SEED = 20240
DOCUMENTS_PER_CELL = 20
QUERIES_PER_CELL = 20

CARRIERS = [
    "{W} and {w} matter with {things}.",
    "Think of {w}, {w} and {w}.",
    "It comes down to {w}, say {people}.",
    "{W}: that is what {people} talk about.",
    "There is {w} to think of, and there is {w}.",
    "With {things} it is a question of {w}, {w} or even {w}.",
    "{People} mention {w} first and {w} second.",
    "Without {w} there would be no {w} {place}.",
    "Some say {w}; others say {w}.",
    "The {w} of {things} leads to {w}.",
    "{W}, {w}, {w} and the {things} themselves.",
    "A friend asked about {w} and heard about {w}.",
    "The {t} has {w} and {w}.",
    "Because of {w} the {t} was {w}.",
    "{W} for the {t}, and {w} too.",
    "This {t} means {w}.",
]
ASK_CARRIERS = [
    "{w} {name}",
    "{name} {w}",
    "{name} {w} {w}",
    "what about {w} with {things}",
    "{w} and {w} when {act}",
    "tell me about {name} and {w}",
    "{things} {w}",
    "is there {w} in {act}",
    "do {people} have to think of {w} or {w}",
    "{t} {w}",
    "{w} {t} {t}",
    "my {t} and {w}",
    "is the {t} about {w} or {w}",
    "how does {w} go with {t}",
    "{w} for the {t}",
    "can {t} and {t} mean {w}",
]
TOPIC_CARRIERS = [
    "{Things}, {things} and {things} are all part of {act}.",
    "{People} know their {things} {place}.",
    "This is about {name}.",
    "{Act} brings {things} and {things} together.",
    "Take {things}, for example, or {things}.",
    "Somewhere {place} there are {things}.",
    "{T} and {t}, {t} and {t}.",
    "It has to do with {t}, {t} and {t} {place}.",
    "The {t} comes before the {t}.",
    "{People} speak of the {t}, of {t} and of {t}.",
    "A {t} here, a {t} there.",
]
POLITE = ["", "", "", "", "please explain: ", "I wonder, ", "a question: ", "as a rule, "]


@dataclass(frozen=True)
class Document:
    """One training document and what it tells."""

    topic: str
    main: str
    secondary: str | None
    text: str


class Writer:
    """Fills the hand-written frames."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.topics = {t.key: t for t in load_topics()}
        self.aspects = {a.key: a for a in load_aspects()}
        self.common = load_common_words()
        words = [w for a in self.aspects.values() for w in a.words] + [w for t in self.topics.values() for w in t.words]
        self.stems = [w for w in words if len(w) > 3 and " " not in w] + [w for w in self.common if len(w) > 3]

    def _slot(self, name, topic, aspect):
        pick = self.random.choice
        lower = name[0].lower() + name[1:]
        if lower == "n":
            return str(self.random.randint(2, 40))
        if lower == "money":
            return str(pick([15, 20, 30, 40, 50, 60, 80, 90, 100, 120, 150, 200, 250, 300, 400, 500, 800, 1200]))
        if lower == "year":
            return str(self.random.randint(1650, 1990))
        if lower == "w":
            value = pick(aspect.words)
        else:
            field = {"people": "people", "act": "acts", "things": "things", "place": "places", "name": "names",
                     "t": "words"}[lower]
            value = pick(getattr(topic, field))
        return value if lower == name else value[0].upper() + value[1:]

    def fill(self, frame, topic, aspect=None):
        """One frame with its choices made and its slots filled."""
        frame = re.sub(r"\(([^()]*\|[^()]*)\)", lambda m: self.random.choice(m[1].split("|")), frame)
        return re.sub(r"\{(\w+)\}", lambda m: self._slot(m[1], topic, aspect), frame)

    def _coined(self):
        """A word that does not exist, so that models learn to pass over pieces of words they do not know."""
        first, second = (self.random.choice(self.stems) for _ in range(2))
        return first[: self.random.randint(1, len(first) - 1)] + second[self.random.randint(1, len(second) - 1) :]

    def _filler(self):
        words = [self._coined() if self.random.random() < 0.3 else self.random.choice(self.common)
                 for _ in range(self.random.randint(4, 12))]
        return " ".join(words).capitalize() + "."

    def tell(self, topic, aspect):
        """A sentence on an aspect: a hand-written one, or a carrier with words of the aspect."""
        frames = aspect.says if self.random.random() < 0.6 else CARRIERS
        sentence = self.fill(self.random.choice(frames), topic, aspect)
        return self._diluted(sentence) if self.random.random() < 0.25 else sentence

    def _diluted(self, sentence):
        """The sentence with coined and common words between its own."""
        words = sentence.split()
        for _ in range(max(1, len(words) // 5)):
            word = self._coined() if self.random.random() < 0.4 else self.random.choice(self.common)
            words.insert(self.random.randrange(len(words)), word)
        return " ".join(words)

    def document(self, topic_key, main_key, secondary_key=None, short=False):
        """A document of 10 to 30 words when short, else of about 30 to 110."""
        topic, main = self.topics[topic_key], self.aspects[main_key]
        r = self.random
        if short:
            sentences = [self.tell(topic, main) for _ in range(r.randint(1, 2))]
            extras = 1 if r.random() < 0.5 else 0
        else:
            sentences = [self.tell(topic, main) for _ in range(r.randint(2, 4))]
            extras = r.randint(2, 4)
        if secondary_key:
            sentences.append(self.tell(topic, self.aspects[secondary_key]))
        for _ in range(extras):
            kind = r.random()
            if kind < 0.25:
                sentences.append(r.choice(topic.facts))
            elif kind < 0.6:
                sentences.append(self.fill(r.choice(TOPIC_CARRIERS), topic))
            else:
                sentences.append(self._filler())
        if r.random() < 0.4:
            stray = r.choice(list(self.aspects.values()))
            words = self._filler().split()
            words.insert(r.randrange(1, len(words)), r.choice(stray.words))
            sentences.append(" ".join(words))
        r.shuffle(sentences)
        return Document(topic_key, main_key, secondary_key, " ".join(sentences))

    def query(self, topic_key, aspect_key):
        """A question on one aspect of one topic."""
        topic, aspect = self.topics[topic_key], self.aspects[aspect_key]
        frames = aspect.asks if self.random.random() < 0.6 else ASK_CARRIERS
        text = self.random.choice(POLITE) + self.fill(self.random.choice(frames), topic, aspect)
        if self.random.random() < 0.4:
            text = self._diluted(text)
        if self.random.random() < 0.6:
            text = text[0].upper() + text[1:]
        return text + ("?" if self.random.random() < 0.6 else "")


@dataclass(frozen=True)
class TrainingText:
    """Everything the models are trained on: for each (topic, aspect) its documents and queries."""

    short: dict
    long: dict
    queries: dict

    def lines(self):
        """Every text, in a fixed order."""
        for pool in (self.short, self.long):
            for documents in pool.values():
                yield from (d.text for d in documents)
        for queries in self.queries.values():
            yield from queries

    def sha256(self):
        """The digest of all lines."""
        digest = hashlib.sha256()
        for line in self.lines():
            digest.update(line.encode() + b"\n")
        return digest.hexdigest()


def generate():
    """The training text, always the same."""
    writer = Writer(SEED)
    aspects = list(writer.aspects)
    short, long, queries = {}, {}, {}
    for topic in writer.topics:
        for aspect in aspects:
            others = [a for a in aspects if a != aspect]
            short[topic, aspect] = [writer.document(topic, aspect, short=True) for _ in range(DOCUMENTS_PER_CELL)]
            long[topic, aspect] = [
                writer.document(topic, aspect, writer.random.choice(others) if i % 2 else None)
                for i in range(DOCUMENTS_PER_CELL)
            ]
            queries[topic, aspect] = sorted({writer.query(topic, aspect) for _ in range(QUERIES_PER_CELL)})
    return TrainingText(short, long, queries)


if __name__ == "__main__":
    text = generate()
    for number, line in enumerate(text.lines()):
        if number % 997 == 0:
            print(line)
    print(f"{sum(1 for _ in text.lines())} texts, sha256 {text.sha256()}")
