"""ONNX Runtime, on a model that optimum exported, as an engine of `make bench-peers`."""

import argparse
from pathlib import Path

import onnxruntime
from optimum.exporters.onnx import main_export

import hidden
import turns


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--precision", choices=["float32"], required=True)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    folder = arguments.model.with_name(f"{arguments.model.name}-onnx")
    if not (folder / "done").exists():
        main_export(str(arguments.model), output=folder, task="feature-extraction", dtype="fp32", do_validation=False)
        (folder / "done").touch()

    def load():
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = arguments.threads
        session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
        names = {given.name for given in session.get_inputs()}

        def states(ids, mask):
            given = {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clip(0)}
            return session.run(None, {name: value for name, value in given.items() if name in names})[0]

        return lambda **request: hidden.score(arguments.model, states, **request)

    turns.answer(load)


main()
