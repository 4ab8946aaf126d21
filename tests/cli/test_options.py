# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Options that would have no effect beside the others are refused in one sentence, if the user must have meant more."""

import importlib
import shlex
from argparse import Namespace

import numpy as np
import pytest
from PIL import Image

from dinov3seg_hf import cli, export_annotations
from dinov3seg_hf.annotations import AnnotatedImage
from dinov3seg_hf.annotations.formats import FORMATS, FORMATS_WITH
from dinov3seg_hf.cli import evaluation, model_options
from dinov3seg_hf.resources import EXAMPLE_IMAGE, resource

SCENE = resource(EXAMPLE_IMAGE)
SEGMENT, LABEL = "segment SCENE --labels cat", "label --labels cat --output OUT/labeled"
ZERO_SHOT = "is for the zero-shot head; the head is full. Add --head dinotxt"


def checked(command, tmp_path):
    """Runs the part of a command that checks its arguments."""
    name, *arguments = shlex.split(command.replace("SCENE", str(SCENE)).replace("OUT", str(tmp_path)))
    module = importlib.import_module(f"dinov3seg_hf.cli.{name}")
    module.check(module.make_parser(name).parse_args(arguments))


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (f"{SEGMENT} --original", "--original is for the overlay, and needs --output"),
        (f"{SEGMENT} --alpha 0.3 --mask OUT/mask.png", "--alpha is for the overlay, and needs --output"),
        (f"{SEGMENT} --head full --no-refine-features", f"--no-refine-features {ZERO_SHOT}"),
        (f"{SEGMENT} --format png --annotations OUT/set --tolerance 3", "expected coco, yolo, labelme, geopackage"),
        (
            f"{SEGMENT} --format yolo --annotations OUT/set --image-prefix x",
            "--image-prefix does not work with --format",
        ),
        (f"{SEGMENT} --format parquet --annotations OUT/set --no-copy-images", "label --no-copy-images"),
        (f"{LABEL} --dataset OUT --head full --no-refine-features", ZERO_SHOT),
        (f"{LABEL} --dataset OUT --revision v1", "is a folder here, so it is not read from the Hub"),
        (
            "calibrate --labels cat --images OUT --write OUT/w.tsv --head full --no-refine-features",
            ZERO_SHOT,
        ),
        ("evaluate --benchmark drawn-world --confusion", "--confusion needs --output"),
        ("evaluate --benchmark drawn-world --overwrite", "--overwrite needs --output"),
        ("evaluate --benchmark drawn-world --head full --temperature 0.1", f"--temperature {ZERO_SHOT}"),
        ("evaluate --benchmark drawn-world --inference whole --window-stride 64", "--window-stride is for windows"),
        ("doctor --labels 'cat, dog' --only similar nowhere", "Got --only nowhere without images"),
        ("doctor --labels 'cat, dog' --only similar --images OUT", "--only leaves them out"),
        ("doctor --labels 'cat, dog' --only joined --similarity 0.5", "--similarity is for the finding similar"),
        ("prepare drawn-world --source OUT --output OUT/x", "--source is for downloads"),
        ("prepare A-150 --source OUT --output OUT/x --scenes 100", "--scenes is for drawn-world"),
        ("publish --model embedded --repo a/b --example SCENE", "the image would get the labels of the drawn scene"),
    ],
)
def test_an_option_without_effect_is_refused(command, message, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"\. (?:Add|Leave|Pass)") as error:
        checked(command, tmp_path)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "command",
    [
        f"{SEGMENT} --original --alpha 0.3 --output OUT/overlay.png",
        f"{SEGMENT} --head dinotxt --no-refine-features --active-classes auto",
        f"{SEGMENT} --head full --refine-features",
        f"{SEGMENT} --format coco --annotations OUT/a.json --tolerance 3 --image-prefix x --no-copy-images",
        f"{SEGMENT} --format png --annotations OUT/set --tolerance 1 --no-copy-images",
        "evaluate --benchmark drawn-world --output OUT/results --overwrite --confusion",
        "evaluate --benchmark drawn-world --head dinotxt --temperature 0.1 --inference slide --window-stride 64",
        "doctor --labels 'cat, dog' --similarity 0.5",
        "doctor --labels 'cat, dog' --only similar joined --similarity 0.5",
        "prepare drawn-world --output OUT/x --scenes 2 --size 48",
        "prepare A-150 --source OUT --output OUT/x --partial --skip-bad",
        "publish --model embedded --repo a/b --example SCENE --labels cat",
    ],
)
def test_an_option_with_an_effect_or_without_harm_is_not(command, tmp_path):
    checked(command, tmp_path)


def test_a_map_of_tiles_has_no_overlay_and_one_format(tmp_path):
    pytest.importorskip("rasterio")
    for more, message in (
        ("--alpha 0.3", "--alpha does not work with --tile"),
        ("--format geopackage --annotations OUT/a.gpkg --image-prefix x", "--image-prefix does not work with"),
    ):
        with pytest.raises(ValueError, match=message):
            checked(f"{SEGMENT} --tile --mask OUT/mask.tif {more}", tmp_path)


def test_the_head_and_the_inference_of_the_checkpoint_count_too():
    """They are known when it is loaded."""
    for given in (Namespace(refine_features=False), Namespace(temperature=0.1)):
        for head in (None, "dinotxt"):
            model_options.refuse_options_of_other_head(given, head)
        with pytest.raises(ValueError, match="the head is full"):
            model_options.refuse_options_of_other_head(given, "full")
    windows = Namespace(window_size=64, window_stride=None)
    for inference in (None, "slide", "local-global"):
        model_options.refuse_windows_without_windows(windows, inference)
    with pytest.raises(ValueError, match="--window-size is for windows; the inference mode is whole"):
        model_options.refuse_windows_without_windows(windows, "whole")


def test_a_checkpoint_with_the_full_head_refuses_what_is_for_the_other_one(tiny_checkpoint, capsys, monkeypatch):
    monkeypatch.setattr(evaluation, "evaluate", lambda *_, **__: pytest.fail("too late"))
    model = ["--model", str(tiny_checkpoint)]
    segment = ["segment", str(SCENE), "--labels", "cat", "--no-refine-features", "--device", "cpu"]
    for arguments in (
        segment,
        ["evaluate", "--benchmark", "drawn-world", "--images", "1", "--temperature", "1", "--cpu"],
    ):
        assert cli.main([*arguments, *model]) == 2
        assert ZERO_SHOT in capsys.readouterr().err


@pytest.mark.parametrize("option", FORMATS_WITH)
@pytest.mark.parametrize("name", [name for name in FORMATS if name != "geopackage"])  # needs a place on earth
def test_the_formats_of_an_option_are_those_whose_files_it_changes(name, option, tmp_path):
    pytest.importorskip("rasterio")
    rows, columns = np.ogrid[:40, :50]
    labels = ((rows - 20) ** 2 + (columns - 25) ** 2 < 200).astype(np.int32)
    written = []
    for value in {"tolerance": (0.0, 5.0), "image_prefix": ("", "x/")}[option]:
        folder = tmp_path / str(len(written))
        image = AnnotatedImage("a.png", labels, np.ones((40, 50), np.float32), image=Image.new("RGB", (50, 40)))
        path = folder / ("a.xml" if name == "cvat" else "a.json")
        folder.mkdir()
        export_annotations([image], ["sky", "ball"], path if name in ONE_FILE else folder, name, **{option: value})
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        written.append([(path.relative_to(folder), path.read_bytes()) for path in files])
    assert written[0] and (written[0] != written[1]) == (name in FORMATS_WITH[option])


ONE_FILE = ("coco", "coco-panoptic", "cvat", "label-studio")
