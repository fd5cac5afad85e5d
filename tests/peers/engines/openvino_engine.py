"""OpenVINO, on a model that optimum-intel exported, as an engine of `make bench-peers`."""

import argparse
from pathlib import Path

import openvino
from optimum.exporters.openvino import main_export

import hidden
import turns

HINTS = {"float32": "f32", "bfloat16": "bf16"}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--precision", choices=list(HINTS), required=True)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    folder = arguments.model.with_name(f"{arguments.model.name}-openvino")
    if not (folder / "done").exists():
        main_export(str(arguments.model), output=folder, task="feature-extraction")
        (folder / "done").touch()

    def load():
        options = {
            "INFERENCE_PRECISION_HINT": HINTS[arguments.precision],
            "INFERENCE_NUM_THREADS": arguments.threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        model = openvino.Core().compile_model(folder / "openvino_model.xml", "CPU", options)
        names = {name for given in model.inputs for name in given.names}
        inference = model.create_infer_request()

        def states(ids, mask):
            given = {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clip(0)}
            return inference.infer({name: value for name, value in given.items() if name in names})[0]

        return lambda **request: hidden.score(arguments.model, states, **request)

    turns.answer(load)


main()
