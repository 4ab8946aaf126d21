# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""An export computes what the model computes, or is not there. The real tracers and runtimes are in the slow tests."""

import copy
import importlib.util
import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from full_disk import files_of_at_most
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import SamVisionConfig

from dinov3seg_hf import TINY
from dinov3seg_hf.cli import main
from dinov3seg_hf.exporting import export, export_checkpoint, parity, programs
from dinov3seg_hf.exporting.formats import FORMATS, check_format
from dinov3seg_hf.exporting.graphs import ExportedGraph, Tensor, graphs_of
from dinov3seg_hf.exporting.parity import compare, reference, refuse_differences, tolerance_of
from dinov3seg_hf.exporting.programs import load_program, write_program
from dinov3seg_hf.loading import load_pipeline
from dinov3seg_hf.model.configuration_dinov3seg import Dinov3SegConfig
from dinov3seg_hf.model.image_input import open_image
from dinov3seg_hf.model.modeling_dinov3seg import Dinov3SegForSemanticSegmentation
from dinov3seg_hf.model.tokenization import stack_prompts, tokenize_prompts
from dinov3seg_hf.model.vocabulary import Vocabulary

from places import REPO
from tiny import SAM


@pytest.fixture(scope="module")
def run_file():
    """The module `run.py`, as in an export."""
    sys.path.insert(0, str(REPO / "dinov3seg_hf" / "model"))  # text_cleaning, image_formats
    spec = importlib.util.spec_from_file_location("run", REPO / "dinov3seg_hf" / "exporting" / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path.pop(0)
    return module


@pytest.fixture
def untraced(monkeypatch, request):
    """Programs that are the graphs themselves, plus the noise of the parameter."""
    written = {}

    def write(graph, example, format, folder, int8):
        path = folder / f"{graph.name}.onnx"
        path.write_bytes(b"")
        written[path] = graph
        return path

    def load(path):
        return torch.no_grad()(
            lambda *inputs: [output + getattr(request, "param", 0) for output in written[path](*inputs)]
        )

    monkeypatch.setattr(parity, "SIZES", ((7, 12),))
    monkeypatch.setattr(parity, "NUM_CLASSES", (1, 5))
    monkeypatch.setattr(export, "write_program", write)
    monkeypatch.setattr(export, "load_program", load)


def test_the_folder_has_all_that_its_readme_names(untraced, tiny_checkpoint, tmp_path):
    (tmp_path / "model").mkdir()
    for path in tiny_checkpoint.iterdir():
        (tmp_path / "model" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "model" / "LICENSE.md").write_text("Terms of the weights.")
    done = export_checkpoint(tmp_path / "model", tmp_path / "out", templates="none")
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert set(done.files) == files == {
        *("image.onnx", "text.onnx", "head.onnx", "tokenizer.json", "export.json"),
        *("run.py", "text_cleaning.py", "image_formats.py", "README.md", "LICENSE.md"),
    }  # fmt: skip
    assert list(tmp_path.glob(".*")) == []
    readme = (tmp_path / "out" / "README.md").read_text()
    for graph in graphs_of(load_pipeline(tiny_checkpoint, "cpu").model):
        for tensor in (*graph.inputs, *graph.outputs):
            assert f"| `{tensor.name}` | {tensor.dtype} | ({', '.join(map(str, tensor.shape))}) |" in readme
    assert {(row.stage, row.output) for row in done.differences} >= {("head", "logits"), ("whole", "logits")}
    assert max(row.absolute for row in done.differences) == 0  # these programs are the model
    found = json.loads((tmp_path / "out" / "export.json").read_text())
    assert (found["templates"], found["patch_size"], found["size"]) == (["{}"], 8, {"shortest_edge": 64})


def test_the_license_of_a_folder_in_the_cache_of_the_hub_keeps_its_name(untraced, tiny_checkpoint, tmp_path):
    """The files there, which `hf download` tells, are links to files with names of digits."""
    snapshot, blobs = tmp_path / "cache" / "snapshots" / "0123", tmp_path / "cache" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(tiny_checkpoint.iterdir()):
        (blobs / str(number)).write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(blobs / str(number))
    (blobs / "abcdef").write_text("Terms of the weights.")
    (snapshot / "LICENSE.md").symlink_to(blobs / "abcdef")
    export_checkpoint(snapshot, tmp_path / "out")
    assert (tmp_path / "out" / "LICENSE.md").read_text() == "Terms of the weights."
    assert not (tmp_path / "out" / "abcdef").exists()


@pytest.mark.parametrize("untraced", [1e-2, float("nan")], indirect=True, ids=["noise", "nan"])
def test_programs_that_differ_end_with_exit_code_2_and_no_file(untraced, tiny_checkpoint, tmp_path, capsys):
    assert main(["export", str(tiny_checkpoint), "--output", str(tmp_path / "out")]) == 2
    reason = capsys.readouterr().err
    assert "features of image" in reason or "text_embeds contains NaN" in reason  # the head here is the model itself
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_a_killed_export_go_with_the_next(untraced, tiny_checkpoint, tmp_path):
    (tmp_path / ".out.0123abcd.partial").mkdir()
    (tmp_path / ".out.0123abcd.partial" / "image.onnx").write_bytes(b"half")
    export_checkpoint(tiny_checkpoint, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_files_that_others_write_meanwhile_stay(untraced, tiny_checkpoint, tmp_path, monkeypatch):
    output = tmp_path / "out"

    def readme(*arguments):
        output.mkdir()
        (output / "mine.txt").write_text("mine")
        return ""

    monkeypatch.setattr(export, "make_readme", readme)
    with pytest.raises(ValueError, match="not an empty folder"):
        export_checkpoint(tiny_checkpoint, output)
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["out", "out/mine.txt"]


def test_converted_weights_without_a_license_are_refused(tiny_checkpoint, tmp_path):
    (tmp_path / "model").mkdir()
    for name in ("config.json", "conversion_report.json"):
        (tmp_path / "model" / name).write_text("{}")
    with pytest.raises(ValueError, match="no license file"):
        export_checkpoint(tmp_path / "model", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_with_files_is_refused(tiny_checkpoint, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="not an empty folder"):
        export_checkpoint(tiny_checkpoint, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_graph_has_the_weights_of_its_part_only(tiny_model):
    counts = [{name.split(".")[1] for name, _ in graph.named_parameters()} for graph in graphs_of(tiny_model)]
    assert counts[1] == {"logit_scale", "text_model"}
    assert set.union(*counts) == {name.split(".")[0] for name, _ in tiny_model.named_parameters()}
    shared = {id(parameter) for parameter in tiny_model.parameters()}
    assert all(id(parameter) in shared for graph in graphs_of(tiny_model) for parameter in graph.parameters())


# --- run.py -----------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 9), width=st.integers(1, 9), rows=st.integers(1, 40), columns=st.integers(1, 40))
def test_the_resize_of_run_py_is_that_of_the_model(run_file, height, width, rows, columns):
    values = np.random.default_rng(height).standard_normal((height, width), dtype=np.float32)
    expected = F.interpolate(torch.from_numpy(values)[None, None], (rows, columns), mode="bilinear")[0, 0]
    np.testing.assert_allclose(run_file.resize(values, (rows, columns)), expected, atol=1e-5)


@pytest.mark.parametrize("size", [(60, 90), (200, 50), (7, 7)])
def test_run_py_prepares_pixels_and_prompts_like_the_processor(run_file, tiny_processor, tiny_model, size, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    segmenter = object.__new__(run_file.Segmenter)
    segmenter.settings = {**export.settings_of(tiny_model, tiny_processor), "templates": ["{}", "a {}"]}
    expected = tiny_processor.image_processor(noise, return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(segmenter.prepare(Image.fromarray(noise)), expected, atol=1e-5)

    tiny_processor.tokenizer.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    segmenter.tokenizer = run_file.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    segmenter.tokenizer.no_padding()
    segmenter.tokenizer.encode_special_tokens = True

    segmenter.text = lambda feeds: {"text_embeds": feeds}
    labels = ["Red  Circle", "caf\u00e9|\u201cstar\u201d", "&lt;b&gt;"]
    feeds = segmenter.encode_words(labels)
    prompts = Vocabulary.from_list(labels, templates=["{}", "a {}"]).prompts()
    token_ids = tokenize_prompts(tiny_processor.tokenizer, prompts)
    expected = stack_prompts(token_ids, tiny_processor.tokenizer.pad_token_id)
    assert np.array_equal(feeds["input_ids"], expected[0])
    assert np.array_equal(feeds["attention_mask"], expected[1])


@pytest.mark.parametrize("left_out", ["do_rescale", "do_normalize"])
def test_run_py_leaves_out_what_the_processor_leaves_out(run_file, tiny_processor, tiny_model, left_out):
    noise = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    processor = copy.deepcopy(tiny_processor)
    setattr(processor.image_processor, left_out, False)
    segmenter = object.__new__(run_file.Segmenter)
    segmenter.settings = export.settings_of(tiny_model, processor)
    expected = processor.image_processor(noise, return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(segmenter.prepare(Image.fromarray(noise)), expected, rtol=1e-5, atol=1e-5)
    processor.image_processor.do_resize = False
    with pytest.raises(ValueError, match="does not resize"):
        export.settings_of(tiny_model, processor)


@settings(max_examples=20, deadline=None)
@given(bad=st.sampled_from([np.nan, np.inf, -np.inf]), place=st.integers(0, 3 * 4 * 5 - 1), everywhere=st.booleans())
def test_run_py_gives_no_labels_to_logits_that_are_not_finite(run_file, bad, place, everywhere):
    logits = np.random.default_rng(place).standard_normal((1, 3, 4, 5), dtype=np.float32)
    segmenter, image = object.__new__(run_file.Segmenter), Image.new("RGB", (10, 8))
    segmenter.prepare = lambda image: None
    segmenter.image = lambda feeds: {"cls_embeds": None}
    segmenter.head = lambda feeds: {"logits": logits}
    expected = F.interpolate(torch.from_numpy(logits), (8, 10), mode="bilinear").argmax(1)[0]
    assert np.array_equal(segmenter.segment(image, None), expected)
    logits.reshape(-1)[slice(None) if everywhere else place] = bad
    with pytest.raises(ValueError, match="NaN or infinity; expected finite"):
        segmenter.segment(image, None)


@pytest.mark.parametrize("kind", ["16 bits", "gray", "palette", "transparent"])
def test_run_py_opens_images_like_the_package(run_file, tmp_path, kind):
    values = np.random.default_rng(0).integers(0, 2**16, (20, 30), dtype=np.uint16)
    gray = Image.fromarray((values // 257).astype(np.uint8))
    image = {
        "16 bits": lambda: Image.fromarray(values),
        "gray": lambda: gray,
        "palette": lambda: gray.convert("P"),
        "transparent": lambda: Image.merge("LA", (gray, gray.rotate(180))),
    }[kind]()
    image.save(tmp_path / "image.png")
    found, expected = run_file.open_image(tmp_path / "image.png"), open_image(tmp_path / "image.png")
    assert np.abs(np.asarray(found, int) - np.asarray(expected, int)).max() <= (kind == "transparent")  # rounding


def test_run_py_refuses_values_that_it_would_clip(run_file, tmp_path):
    for values in (np.full((4, 5), 0.5, np.float32), np.full((4, 5), 2**17, np.int32)):
        Image.fromarray(values).save(tmp_path / "image.tiff")
        with pytest.raises(ValueError, match="expected 8 or 16 bits"):
            run_file.open_image(tmp_path / "image.tiff")


@pytest.mark.parametrize("labels", [[], ["a", ""], ["a|"], ["a", "b| "], ["a|b", "A"], ["a|A"], ["b  c", "b c"]])
def test_run_py_refuses_words_that_are_none_or_repeated(run_file, labels):
    with pytest.raises(ValueError, match="expected different words"):
        run_file.check_labels(labels)
    run_file.check_labels(["a", "b|c", "d|c"])


# --- tracers and runtimes ---------------------------------------------------------------------------------------------


def small(tiny_config, **changes) -> Dinov3SegForSemanticSegmentation:
    config = Dinov3SegConfig.from_dict({**tiny_config.to_dict(), **changes})
    torch.manual_seed(0)
    model = Dinov3SegForSemanticSegmentation(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return model


class Products(ExportedGraph):
    """A small graph with products of matrices and a size that is not constant."""

    name, parts = "products", ()
    inputs = (Tensor("rows", ("rows", 16), "rows"),)
    outputs = (Tensor("softmax", ("rows", 8), "rows"), Tensor("sums", ("rows",), "their sums"))

    def __init__(self, model):
        super().__init__(model)
        self.linear = torch.nn.Linear(16, 8)
        self.other = torch.nn.Linear(8, 8)

    def forward(self, rows):
        result = self.other(self.linear(rows).relu()).softmax(dim=1)
        return result, (result * torch.arange(8)).sum(dim=1)


@pytest.mark.parametrize("format, int8", [("onnx", False), ("onnx", True), ("openvino", False), ("torch", False)])
def test_each_format_runs_at_sizes_that_were_not_traced(tiny_model, tmp_path, format, int8):
    torch.manual_seed(0)
    graph = Products(tiny_model).requires_grad_(False)
    path = write_program(graph, (torch.randn(5, 16),), format, tmp_path, int8)
    assert path == tmp_path / f"products{FORMATS[format].ending}"
    for file in tmp_path.iterdir():  # of this machine, where the code is
        assert b"test_export.py" not in file.read_bytes() and str(REPO).encode() not in file.read_bytes()
    program = load_program(path)
    for num_rows in (2, 5, 19):
        rows = torch.randn(num_rows, 16)
        for found, expected in zip(program(rows), graph(rows), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=0.05 if int8 else 1e-6)
            assert not int8 or not torch.equal(found, expected)


def test_weights_of_eight_bits_are_smaller(tiny_model, tmp_path):
    graph = Products(tiny_model)
    graph.linear = torch.nn.Linear(16, 4096)
    graph.other = torch.nn.Linear(4096, 8)
    graph.requires_grad_(False)
    sizes = []
    for int8 in (False, True):
        (tmp_path / str(int8)).mkdir()
        sizes.append(write_program(graph, (torch.randn(5, 16),), "onnx", tmp_path / str(int8), int8).stat().st_size)
    assert sizes[1] < 0.4 * sizes[0]


@pytest.mark.parametrize(
    "format, int8, words",
    [("tflite", False, "expected one of onnx, openvino, torch"), ("openvino", True, "expected onnx")],
)
def test_exports_that_do_not_exist_are_refused(format, int8, words, tmp_path, capsys):
    with pytest.raises(ValueError, match=words):
        check_format(format, int8)
    with pytest.raises(ValueError, match=words):
        export_checkpoint(TINY, tmp_path / "out", format, int8=int8)
    if int8:
        assert main(["export", "embedded", "--output", str(tmp_path / "out"), "--format", format, "--int8"]) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "format, changes",
    [
        ("openvino", {}),
        ("onnx", {"early_refinement_scale": 2}),
        ("onnx", {"head": "dinotxt"}),
        ("onnx", {"prior_config": SamVisionConfig(**SAM).to_dict(), "stem_channels": None}),
        ("torch", {}),
    ],
    ids=["openvino", "scale", "zero-shot", "sam", "torch"],
)
def test_programs_compute_what_the_model_computes(tiny_config, tmp_path, format, changes):
    graphs = {graph.name: graph for graph in graphs_of(small(tiny_config, **changes))}
    inputs = reference(graphs, *export.TRACED_SIZES).inputs
    programs = {
        name: load_program(write_program(graph, inputs[name], format, tmp_path)) for name, graph in graphs.items()
    }
    differences = [row for rows in compare(graphs, programs) for row in rows]
    refuse_differences(differences, tolerance_of(format))
    assert 0 < max(row.relative for row in differences) <= 5e-4


def test_the_head_of_torch_takes_any_number_of_classes(tiny_config, tmp_path):
    graphs = {graph.name: graph for graph in graphs_of(small(tiny_config, early_refinement_scale=4))}
    head = graphs["head"]
    path = write_program(head, reference(graphs, *export.TRACED_SIZES).inputs["head"], "torch", tmp_path)
    program = load_program(path)
    for num_classes in (1, 2, 9):  # a number that is traced as a constant is another one
        inputs = reference(graphs, 7, 12, num_classes).inputs["head"]
        for found, expected in zip(program(*inputs), head(*inputs), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


BLOCKED = """
import runpy, sys
for name in ("torch", "transformers", "dinov3seg_hf", {others}):
    sys.modules[name] = None  # importing it fails
sys.argv = ["run.py", *{arguments!r}]
runpy.run_path({path!r}, run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "format, int8, blocked, size, agreement",
    [
        ("onnx", False, "openvino", 1.1, 0.999),
        ("onnx", True, "openvino", 0.65, 0.98),
        ("openvino", False, "onnxruntime", 1.3, 0.999),
    ],
    ids=["onnx", "int8", "openvino"],
)
def test_run_py_segments_like_the_pipeline_without_torch(tmp_path, format, int8, blocked, size, agreement):
    export_checkpoint(TINY, tmp_path / "out", format, int8=int8)
    stored = load_file(f"{TINY}/model.safetensors")
    programs = [path for path in (tmp_path / "out").iterdir() if path.suffix in (".onnx", ".xml", ".bin", ".data")]
    assert sum(path.stat().st_size for path in programs) < size * sum(tensor.nbytes for tensor in stored.values())
    labels = ["black plain background", "orange dotted square", "red plain triangle|red triangle", "blue circle"]
    scene, mask = REPO / "examples" / "scene.png", tmp_path / "mask.png"
    arguments = [str(scene), "--labels", ", ".join(labels), "--output", str(mask)]
    path = str(tmp_path / "out" / "run.py")
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path / 'out')!r})\n"
         + BLOCKED.format(arguments=arguments, path=path, others=repr(blocked))],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    pipe = load_pipeline(TINY, "cpu")
    expected = pipe(str(scene), labels, inference="whole", background="never", return_label_map=True)["label_map"]
    assert (np.asarray(Image.open(mask)) == expected).mean() > agreement


def test_a_full_disk_is_an_error_and_does_not_end_the_process(tmp_path, monkeypatch):
    """The writer of torch, in C++, ends the process when a file raises an error."""
    layer, example = torch.nn.Linear(100, 100).eval(), (torch.zeros(2, 100),)
    monkeypatch.setattr(programs, "trace", lambda graph, example: torch.export.export(layer, example))
    path = write_program(SimpleNamespace(name="image"), example, "torch", tmp_path)
    assert torch.equal(load_program(path)(*example), layer(*example))
    for share in (0, 0.3, 0.6, 0.9):
        with files_of_at_most(int(share * path.stat().st_size)), pytest.raises(OSError, match="File too large"):
            write_program(SimpleNamespace(name="cut"), example, "torch", tmp_path)


def test_an_output_that_is_no_path_is_refused(tiny_checkpoint):
    for output in (None, 3, b"x", ""):
        with pytest.raises(ValueError, match=r"output is .*expected a path"):
            export_checkpoint(tiny_checkpoint, output)
    for format in ({}, None, ["onnx"]):
        with pytest.raises(ValueError, match="expected one of onnx"):
            check_format(format)
    with pytest.raises(ValueError, match="int8 is 'no'; expected true or false"):
        check_format("onnx", "no")
