# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Programs of graphs in the formats of an export: traced, written to files and loaded again to be run.

`torch.export` and `torch.onnx` are called directly, not through `transformers.exporters`: see docs/decisions.md.
OpenVINO and ONNX Runtime's quantization read the ONNX file.
"""

import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from ..kept_errors import FileWithKeptError
from ..model.checks import first_line
from ..signals import interrupts_held_back
from .formats import FORMATS, Format
from .graphs import ExportedGraph

MAX_PROTOBUF = 2**31 - 1  # bytes of an ONNX file; larger weights are beside it

# Takes the inputs of a graph in its order and returns its outputs.
Program = Callable[..., Sequence[torch.Tensor]]


def write_program(
    graph: ExportedGraph, example: Sequence[torch.Tensor], format: Format, folder: Path, int8: bool = False
) -> Path:
    """Traces a graph and writes its program.

    Args:
        graph: The graph.
        example: Inputs of the graph; every size without a constant value is at least 2.
        format: The format of the file.
        folder: The folder of the file, which exists. Weights that do not fit into it get a file of their own there.
        int8: Whether matrices have weights of 8 bits, with a scale for each row, and products of 8 bits; `"onnx"` only.

    Returns:
        The path, `<graph.name>` with the ending of the format.

    Raises:
        ValueError: If the graph cannot be traced or converted.
    """
    path = folder / f"{graph.name}{FORMATS[format].ending}"
    with _quiet(), _errors_of(graph, format):
        traced = trace(graph, example)
        if format == "torch":
            _forget_choices(traced)
            _forget_code(traced)
            with open(path, "wb") as file:
                target = FileWithKeptError(file)
                with interrupts_held_back():
                    torch.export.save(traced, target)  # type: ignore[arg-type]  # a raw file of Python is no IO for mypy
                target.check()
            return path
        program = torch.onnx.export(
            traced,
            tuple(example),
            input_names=[tensor.name for tensor in graph.inputs],
            output_names=[tensor.name for tensor in graph.outputs],
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        _forget_code(program)
        if format == "onnx" and not int8:
            program.save(path)
            return path
        with tempfile.TemporaryDirectory() as scratch:
            source = Path(scratch) / f"{graph.name}.onnx"
            program.save(source)
            (_quantize if int8 else _convert_to_openvino)(source, path)
    return path


def _forget_code(program: torch.export.ExportedProgram | torch.onnx.ONNXProgram) -> None:
    """Removes the lines of code that each node comes from: paths of this machine, and a third of a small file."""
    if isinstance(program, torch.onnx.ONNXProgram):
        from onnx_ir.passes.common import ClearMetadataAndDocStringPass

        ClearMetadataAndDocStringPass()(program.model)
        return
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)


def _forget_choices(program: torch.export.ExportedProgram) -> None:
    """Removes the assertions that sizes differ, or that one is no multiple of another.

    The tracer asks this when it chooses one of several ways to the same result, such as a view or a copy, and asserts
    the answer. At a single class, it would refuse a program that computes what it should. What must hold are equalities
    and bounds, and these assertions stay.
    """
    for node in list(program.graph.nodes):
        if str(node.target) == "aten._assert_scalar.default" and "expression Ne(" in str(node.args[1]):
            program.graph.erase_node(node)
    program.graph.eliminate_dead_code()
    program.graph_module.recompile()


def _convert_to_openvino(source: Path, path: Path) -> None:
    import openvino

    openvino.save_model(openvino.convert_model(source), path, compress_to_fp16=False)


def _quantize(source: Path, path: Path) -> None:
    """Replaces the products with weights of an ONNX file by products of 8 bits; activations get scales as they come."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        source,
        path,
        op_types_to_quantize=["MatMul", "Gemm"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        use_external_data_format=source.stat().st_size > MAX_PROTOBUF or any(source.parent.glob("*.data")),
    )


def trace(graph: ExportedGraph, example: Sequence[torch.Tensor]) -> torch.export.ExportedProgram:
    """Traces a graph with `torch.export`; see `write_program`."""
    with torch.no_grad():
        return torch.export.export(
            graph,
            tuple(example),
            dynamic_shapes=graph.dynamic_shapes(),
            strict=False,
            # else a size that the tracer cannot prove to fit would be refused, although it fits
            prefer_deferred_runtime_asserts_over_guards=True,
        )


def load_program(path: Path) -> Program:
    """Loads a program to run it on the CPU."""
    if path.suffix == FORMATS["torch"].ending:
        module = torch.export.load(path).module()
        return torch.no_grad()(module)
    return _openvino_program(path) if path.suffix == FORMATS["openvino"].ending else _onnx_program(path)


def _openvino_program(path: Path) -> Program:
    import openvino

    # Some CPUs would compute in bfloat16. With its cache, OpenVINO 2026.4 computes wrong logits for many classes after
    # it has computed those for a single one.
    options = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "CPU_RUNTIME_CACHE_CAPACITY": 0,
    }
    compiled = openvino.Core().compile_model(path, "CPU", options)

    def program(*inputs: torch.Tensor) -> list[torch.Tensor]:
        results = compiled([tensor.numpy() for tensor in inputs])
        return [torch.from_numpy(results[output].copy()) for output in compiled.outputs]

    return program


def _onnx_program(path: Path) -> Program:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [tensor.name for tensor in session.get_inputs()]

    def program(*inputs: torch.Tensor) -> list[torch.Tensor]:
        feeds = {name: tensor.numpy() for name, tensor in zip(names, inputs)}
        return [torch.from_numpy(array) for array in session.run(None, feeds)]

    return program


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides the warnings of the tracer and the converter, which are about their own code."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "")]  # ONNX Runtime's quantization has none
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


@contextmanager
def _errors_of(graph: ExportedGraph, format: Format) -> Iterator[None]:
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:  # the tracer and the converter have many types of errors
        raise ValueError(
            f"The {graph.name} graph cannot be exported as {format}: {first_line(error)}. Try the other format, and "
            "please report this with the configuration of the checkpoint."
        ) from error


__all__ = ["Program", "load_program", "trace", "write_program"]
