# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""What a command imports before its arguments are known to be right, and the names that are imported when used."""

import ast
import importlib
import json
import subprocess
import sys

import pytest

from places import REPO

RUN = """
import json, sys
sys.argv = ["dinov3seg", *{arguments!r}]
from dinov3seg_command import main
try:
    code = main()
except SystemExit as error:  # argparse
    code = error.code
print(json.dumps([code, sorted({{"torch", "transformers"}} & set(sys.modules))]))
"""
SCENE = "examples/scene.png"


def run(*arguments: str) -> tuple[int, list[str], str]:
    """Runs the installed command -> (exit code, which of torch and transformers it imported, stderr)."""
    done = subprocess.run(
        [sys.executable, "-c", RUN.format(arguments=arguments)], capture_output=True, text=True, cwd=REPO
    )
    assert done.returncode == 0, done.stderr
    return (*json.loads(done.stdout.splitlines()[-1]), done.stderr)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["segment", "--help"]], ids=" ".join)
def test_help_imports_neither_torch_nor_transformers(arguments):
    assert run(*arguments) == (0, [], "")


def test_the_package_run_as_a_command_does_not_register():
    command = [sys.executable, "-X", "importtime", "-m", "dinov3seg_hf", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPO)
    assert done.returncode == 0 and "dinov3seg_hf.cli" in done.stderr
    assert "dinov3seg_hf.registration" not in done.stderr and "torch" not in done.stderr


INTERRUPTED_DURING = """
import builtins, os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in jobs in the background
real = builtins.__import__
def importing(name, *rest):
    if name == {name!r}:
        os.kill(os.getpid(), signal.{number})
    return real(name, *rest)
builtins.__import__ = importing
from dinov3seg_command import main
sys.exit(main(["segment", "examples/scene.png", "--labels", "cat"]))
"""


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("name", ["dinov3seg_hf.cli", "huggingface_hub.utils"])
def test_a_signal_during_imports_is_one_line(name, number):
    program = INTERRUPTED_DURING.format(name=name, number=number)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=REPO)
    assert done.returncode == 130 and done.stderr.count("\n") == 1
    assert "interrupted; run the same command again" in done.stderr


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["segmnt"], "invalid choice"),
        (["segment", SCENE, "--labels", "cat", "--nope"], "unrecognized arguments"),
        (["segment", "no.png", "--labels", "cat"], "'no.png' was not found"),
        (["segment", SCENE, "--labels", "cat, , dog"], "no visible characters"),
        (["segment", SCENE, "--labels-file", "no.txt"], "'no.txt' cannot be read"),
        (["segment", SCENE, "--labels", "cat", "--model", "no"], "Checkpoint folder 'no' was not found"),
        (["segment", SCENE, "--labels", "cat", "--mask", "no/mask.png"], "Folder 'no' for the file"),
        (["segment", SCENE, "--labels", "cat", "--format", "coco", "--annotations", "a.txt"], "expected .json"),
        (["doctor", "--labels", "cat, dog", "--images", "no"], "'no' was not found"),
        (["calibrate", "--labels", "cat", "--images", "examples", "--masks", "no", "--write", "w.tsv"], "'no' was not"),
        (["label", "--dataset", "examples", "--labels-file", "no.txt", "--output", "out"], "'no.txt' cannot be read"),
        (["label", "--dataset", "phtos", "--labels", "cat", "--output", "out"], "Data set 'phtos' was not found"),
        (["label", "--dataset", "./phtos", "--labels", "cat", "--output", "out"], "Data set './phtos' was not found"),
        (["label", "--dataset", SCENE, "--labels", "cat", "--output", "out"], "is a file"),
        (["evaluate", "--benchmark", "A-150", "--data", "no"], "Folder 'no/ade20k-150' was not found"),
        (["publish", "--model", "embedded", "--repo", "a/b", "--example", "no.png"], "'no.png' was not found"),
        (["export", "no", "--output", "out"], "Checkpoint folder 'no' was not found"),
        (["convert", "--backbone", "no.pth", "--dinotxt", SCENE, "--output", "out"], "backbone no.pth was not found"),
        (["convert", "--backbone", SCENE, "--dinotxt", "no", "--output", "out"], "dinotxt no was not found"),
        (
            ["convert", "--backbone", SCENE, "--dinotxt", SCENE, "--output", "out"],
            "No license file lies beside the weights",
        ),
        (
            ["convert", "--backbone", SCENE, "--dinotxt", SCENE, "--output", "tests", "--license", "LICENSE"],
            "output tests is not empty",
        ),
        (
            [
                "convert",
                "--backbone",
                SCENE,
                "--dinotxt",
                SCENE,
                "--output",
                "out",
                "--license",
                "LICENSE",
                "--tokenizer",
                "no.gz",
            ],
            "tokenizer no.gz was not found",
        ),
        (
            ["convert", "--backbone", SCENE, "--dinotxt", SCENE, "--output", "out", "--license", "no"],
            "license no cannot be used",
        ),
        (["serve", "--model", "no"], "Checkpoint folder 'no' was not found"),
        (["serve", "--port", "65536"], "expected a port from 0 to 65535"),
        (["serve", "--templates", "a {}"], "--templates without words"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_arguments_that_cannot_be_right_are_refused_before_torch_is_imported(arguments, message):
    code, imported, err = run(*arguments)
    assert code == 2 and imported == [] and err.count("\n") == 1 and message in err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--init", "embedded", "--dataset", "./no"], "Data set './no' was not found"),
        (["--init", "no", "--dataset", "drawn-world"], "Checkpoint folder 'no' was not found"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_training_whose_parser_is_that_of_transformers_refuses_paths_before_torch_is_imported(arguments, message):
    code, imported, err = run("train", *arguments, "--output", "out")
    assert code == 2 and "torch" not in imported and err.count("\n") == 1 and message in err


LAZY = [path for path in sorted((REPO / "dinov3seg_hf").rglob("__init__.py")) if "lazy_names(" in path.read_text()]


@pytest.mark.parametrize("path", LAZY, ids=lambda path: path.parent.name)
def test_type_checkers_and_dir_see_the_names_that_are_imported_when_they_are_used(path):
    package = importlib.import_module(".".join(path.parent.relative_to(REPO).parts))
    checked = next(node for node in ast.parse(path.read_text()).body if isinstance(node, ast.If))
    assert ast.unparse(checked.test) == "TYPE_CHECKING"
    seen = {(f".{node.module}", alias.name) for node in checked.body for alias in node.names}
    call = next(node for node in ast.walk(checked.orelse[0]) if isinstance(node, ast.Call))
    lazy = {(module, name) for module, names in ast.literal_eval(call.args[1]).items() for name in names}
    assert seen == lazy and {name for _, name in lazy} <= set(package.__all__) <= set(dir(package))
    for module, name in lazy:
        assert getattr(package, name) is getattr(importlib.import_module(module, package.__name__), name)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = package.nothing


@pytest.mark.multiprocess
@pytest.mark.parametrize("order", ["import dinov3seg_hf, transformers", "import transformers, dinov3seg_hf"])
def test_importing_the_package_is_all_that_the_auto_classes_need(order):
    code = f"""{order}
model = transformers.AutoModel.from_pretrained(dinov3seg_hf.TINY)
print(type(model).__name__, "open-vocabulary-segmentation" in transformers.pipelines.get_supported_tasks())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO)
    assert done.returncode == 0 and done.stdout == "Dinov3SegForSemanticSegmentation True\n", done.stderr
