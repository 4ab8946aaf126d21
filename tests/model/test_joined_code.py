# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The modules of `model/`, joined into the files that a checkpoint carries: the same code, and few files."""

import ast
import os
import subprocess
import sys

import pytest

from dinov3seg_hf.model.joined_code import ENTRY_POINTS, SHARED, imported_files, join_modules, joined_code

from places import REPO

FOLDER = REPO / "dinov3seg_hf" / "model"
MODULES = sorted(path for path in FOLDER.glob("*.py") if path.stem != "__init__")


class WithoutImports(ast.NodeTransformer):
    """Drops what moves to the top of a file: the imports at the top of a module, and relative ones anywhere."""

    def visit_ImportFrom(self, node):
        return None if node.level else node

    def visit_Module(self, node):
        kept = [child for child in node.body if not is_moved(child)]
        return self.generic_visit(ast.Module(kept, []))


def is_moved(node):
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return all(isinstance(child, (ast.Import, ast.ImportFrom)) for child in node.body)
    is_export = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    return is_export or isinstance(node, (ast.Import, ast.ImportFrom))


def statements_of(text):
    return [ast.dump(node) for node in WithoutImports().visit(ast.parse(text)).body]


def test_every_statement_of_every_module_is_in_one_file_as_it_was():
    """In the order of the module, and nothing else is there."""
    joined = {name: statements_of(text) for name, text in joined_code().items()}
    seen = dict.fromkeys(joined, 1)  # the docstring of the file
    for path in MODULES:
        statements = statements_of(path.read_text())
        starts = {name: found.index(statements[0]) for name, found in joined.items() if statements[0] in found}
        ((file, start),) = starts.items()
        assert joined[file][start : start + len(statements)] == statements, path.name
        seen[file] += len(statements)
    assert seen == {name: len(found) for name, found in joined.items()}


def test_joined_files_pass_the_lint_and_the_format_of_the_modules():
    """Among others, every name is defined, none is defined twice, and none is imported in vain."""
    for name, text in joined_code().items():
        for command in (["check"], ["format", "--diff"]):
            arguments = [sys.executable, "-m", "ruff", *command, "--no-cache", "--stdin-filename", FOLDER / name, "-"]
            done = subprocess.run(arguments, input=text, capture_output=True, text=True, cwd=REPO)
            assert done.returncode == 0, done.stdout + done.stderr


def test_what_transformers_asks_for_is_never_imported_from_a_file_that_it_asks_for_first():
    """It would execute it twice. `AutoConfig` is asked before the model, so the model may import the configuration."""
    imports = {name.removesuffix(".py"): imported_files(text) for name, text in joined_code().items()}
    assert imports[SHARED] == set() and imports["configuration_dinov3seg"] == {SHARED}
    assert imports["processing_dinov3seg"] == {SHARED}
    assert not [name for name in imports if "modeling_dinov3seg" in imports[name]]
    assert set(imports) == {*ENTRY_POINTS, SHARED}


def test_same_modules_give_the_same_text_in_another_process():
    """Without the package, whose import is slow; the order of sets differs between processes."""
    code = (
        "import importlib, json, sys, types\n"
        "sys.modules['model'] = package = types.ModuleType('model')\n"
        "package.__path__ = [sys.argv[1]]\n"
        "print(json.dumps(importlib.import_module('model.joined_code').joined_code()))"
    )
    texts = {
        subprocess.run(
            [sys.executable, "-c", code, FOLDER],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(texts) == 1


# --- small folders ----------------------------------------------------------------------------------------------------


@pytest.fixture
def join(tmp_path):
    def join(entry_points=None, **modules):
        for name, text in modules.items():
            (tmp_path / f"{name}.py").write_text(f'"""Module {name}."""\n\n{text}\n')
        return join_modules(tmp_path, {"main": ("main",)} if entry_points is None else entry_points)

    return join


def executed(text):
    names = {}
    exec(compile(text, "joined", "exec"), names)
    return names


def test_what_is_imported_comes_before_what_uses_it_at_once(join):
    later = (
        "from .base import BASE\n\nNEXT = BASE + 1\n\n\ndef late():\n    from .main import RESULT\n\n    return RESULT"
    )
    files = join(main="from .a_later import NEXT, late\n\nRESULT = 10 * NEXT", a_later=later, base="BASE = 1")
    names = executed(files["main.py"])
    assert list(files) == ["main.py"] and names["RESULT"] == 20 and names["late"]() == 20


def test_modules_of_several_files_are_in_the_shared_one(join):
    files = join(
        {"one": ("one",), "two": ("two",)},
        one="from .both import BOTH\nfrom .single import ONLY\n\nONE = BOTH, ONLY",
        two="from .both import BOTH\n\nTWO = BOTH",
        both="BOTH = 1",
        single="ONLY = 2",
        unused="NEVER = 3",
    )
    assert list(files) == ["one.py", "two.py", f"{SHARED}.py"]
    assert imported_files(files["one.py"]) == imported_files(files["two.py"]) == {SHARED}
    assert "ONLY = 2" in files["one.py"] and "BOTH = 1" in files[f"{SHARED}.py"]
    assert not [text for text in files.values() if "NEVER" in text]


@pytest.mark.parametrize(
    "main, other, message",
    [
        ("X = 1", "X = 1", "'X' from 'other.py' and from 'main.py'"),
        ("def x(): ...", "for x in range(2):\n    pass", "'x' from 'other.py' and from 'main.py'"),
        ("import json as x", "import math as x", "'x' from 'import math' and from 'import json'"),
        ("from math import pi as x", "x: int = 1", "'x' from 'other.py' and from 'from math import pi as x'"),
        ("def filter(): ...", "", "'filter' from 'Python' and from 'main.py'"),
        ("from .other import Y as Z", "Y = 1", "'from .other import Y as Z'; expected the same name"),
        ("", "from .main import A\n\nB = A", "import each other"),
    ],
)
def test_what_cannot_be_joined_is_refused(join, main, other, message):
    with pytest.raises(ValueError) as error:
        join(main=f"from .other import B\n{main}\nA = 1", other=f"{other}\nB = 1" if "B = " not in other else other)
    assert message in str(error.value)


def test_files_that_would_import_each_other_are_refused(join):
    modules = {
        "one": "from .both import BOTH",
        "two": "from .both import BOTH",
        "both": "from .one import ONE\n\nBOTH = 1",
    }
    with pytest.raises(ValueError, match="import each other"):
        join({"one": ("one",), "two": ("two",)}, **modules)


def test_text_in_strings_stays(join):
    text = 'TEXT = """\n\n\n\nfrom x import y\n\n\n\n"""\n\n\n__all__ = ["TEXT"]'
    assert executed(join(main=text)["main.py"])["TEXT"] == "\n\n\n\nfrom x import y\n\n\n\n"
