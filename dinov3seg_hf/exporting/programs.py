# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Programs of graphs in the formats of an export: traced, written to files and loaded again to be run.

`torch.export` and `torch.onnx` are called directly, not through `transformers.exporters`: see docs/decisions.md.
"""

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch

from ..extras import require_extra
from ..kept_errors import FileWithKeptError
from ..model.checks import first_line
from .graphs import ExportedGraph

Format = Literal["onnx", "torch"]
ENDINGS: dict[str, str] = {"onnx": ".onnx", "torch": ".pt2"}

# Takes the inputs of a graph in its order and returns its outputs.
Program = Callable[..., Sequence[torch.Tensor]]


def require_format(format: Format) -> None:
    """Checks that the libraries of a format are installed.

    Raises:
        ValueError: If a library is missing; the message contains the installation command.
    """
    if format == "onnx":
        require_extra("onnx", "onnx", "onnxscript", "onnxruntime", what="The format onnx")


def write_program(graph: ExportedGraph, example: Sequence[torch.Tensor], format: Format, folder: Path) -> Path:
    """Traces a graph and writes its program.

    Args:
        graph: The graph.
        example: Inputs of the graph; every size without a constant value is at least 2.
        format: The format of the file.
        folder: The folder of the file, which exists. Weights of more than 2 GB get a file of their own there.

    Returns:
        The path, `<graph.name>.onnx` or `<graph.name>.pt2`.

    Raises:
        ValueError: If the graph cannot be traced or converted.
    """
    path = folder / f"{graph.name}{ENDINGS[format]}"
    with _quiet(), _errors_of(graph, format):
        traced = trace(graph, example)
        if format == "torch":
            with open(path, "wb") as file:
                target = FileWithKeptError(file)
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
        program.save(path)
    return path


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
    if path.suffix == ENDINGS["torch"]:
        module = torch.export.load(path).module()
        return torch.no_grad()(module)
    return _onnx_program(path)


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
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
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


__all__ = ["ENDINGS", "Format", "Program", "load_program", "require_format", "trace", "write_program"]
