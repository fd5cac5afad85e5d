"""What the engines of `make bench-peers` share: token ids in, log-odds out, a line of JSON each.

A request: `{"prompts": [[id]], "shared": n, "yes": id, "no": id, "batch": n}`; `shared` tokens begin all prompts,
`batch` prompts are computed together. An answer: `{"seconds": s, "log_odds": [x]}`.
"""

import json
import sys
import time


def answer(load):
    """Loads with `load()`, which gives the function that scores a request, and answers until the input ends."""
    begun = time.perf_counter()
    score = load()
    print(json.dumps({"load_seconds": time.perf_counter() - begun}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        begun = time.perf_counter()
        log_odds = score(**request)
        print(json.dumps({"seconds": time.perf_counter() - begun, "log_odds": log_odds}), flush=True)


def batches(prompts, batch):
    """Indices of prompts in batches, sorted by length so that little is padded."""
    order = sorted(range(len(prompts)), key=lambda at: len(prompts[at]))
    for first in range(0, len(order), batch):
        yield order[first : first + batch]
