"""ONNX Runtime, on a model that optimum exported, as an engine of `make bench-peers`."""

import argparse
from pathlib import Path

import onnxruntime
from onnxruntime.quantization import QuantType, quantize_dynamic
from optimum.exporters.onnx import main_export

import hidden
import turns


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--precision", choices=["float32", "int8"], required=True)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    folder = arguments.model.with_name(f"{arguments.model.name}-onnx")
    if not (folder / "done").exists():
        main_export(str(arguments.model), output=folder, task="feature-extraction", dtype="fp32", do_validation=False)
        (folder / "done").touch()

    file = folder / "model.onnx"
    if arguments.precision == "int8":
        file = quantized(file)

    def load():
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = arguments.threads
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        names = {given.name for given in session.get_inputs()}

        def states(ids, mask):
            given = {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clip(0)}
            return session.run(None, {name: value for name, value in given.items() if name in names})[0]

        return lambda **request: hidden.score(arguments.model, states, **request)

    turns.answer(load)


def quantized(file):
    """The same with layers' products in int8: weights for each output, rows as they come."""
    to = file.with_name("model-int8.onnx")
    if not to.exists():
        unfinished = file.with_name("unfinished-int8.onnx")
        quantize_dynamic(
            file,
            unfinished,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=True,
            extra_options={"MatMulConstBOnly": True},
        )
        unfinished.rename(to)
    return to


main()
