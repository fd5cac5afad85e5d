"""OpenVINO, on a model that optimum-intel exported, as an engine of `make bench-peers`."""

import argparse
import contextlib
import logging
import sys
from pathlib import Path

import nncf
import openvino
from optimum.exporters.openvino import main_export

import hidden
import turns

# In int8 weights are rounded for each output, and rows as they come, whole; all else is what OpenVINO chooses.
OPTIONS = {
    "float32": {"INFERENCE_PRECISION_HINT": "f32"},
    "bfloat16": {"INFERENCE_PRECISION_HINT": "bf16"},
    "int8": {"DYNAMIC_QUANTIZATION_GROUP_SIZE": "1024"},
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--precision", choices=list(OPTIONS), required=True)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    folder = arguments.model.with_name(f"{arguments.model.name}-openvino")
    if not (folder / "done").exists():
        main_export(str(arguments.model), output=folder, task="feature-extraction")
        (folder / "done").touch()

    file = folder / "openvino_model.xml"
    if arguments.precision == "int8":
        file = quantized(file)

    def load():
        options = {"INFERENCE_NUM_THREADS": arguments.threads, "PERFORMANCE_HINT": "LATENCY"}
        model = openvino.Core().compile_model(file, "CPU", options | OPTIONS[arguments.precision])
        names = {name for given in model.inputs for name in given.names}
        inference = model.create_infer_request()

        def states(ids, mask):
            given = {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clip(0)}
            return inference.infer({name: value for name, value in given.items() if name in names})[0]

        return lambda **request: hidden.score(arguments.model, states, **request)

    turns.answer(load)


def quantized(file):
    """The same with weights in int8, for each output."""
    to = file.with_name("int8.xml")
    if not to.exists():
        unfinished = file.with_name("unfinished.xml")
        # Answers alone go to standard output.
        nncf.set_log_level(logging.ERROR)
        with contextlib.redirect_stdout(sys.stderr):
            model = nncf.compress_weights(openvino.Core().read_model(file), mode=nncf.CompressWeightsMode.INT8_SYM)
        openvino.save_model(model, unfinished, compress_to_fp16=False)
        unfinished.with_suffix(".bin").rename(to.with_suffix(".bin"))
        unfinished.rename(to)
    return to


main()
