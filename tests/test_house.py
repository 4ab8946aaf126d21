# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The rules of the house: what the Hub can serve, what a wheel must carry, what every file and public name has."""

import ast
import importlib
import inspect
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from transformers.dynamic_module_utils import get_relative_import_files

import dinov3seg_hf

from places import REPO

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PACKAGE = REPO / "dinov3seg_hf"
MODULES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = sorted((REPO / "scripts").glob("*.py"))
TESTS = sorted((REPO / "tests").rglob("*.py"))

# The Hub serves these beside config.json (`trust_remote_code=True`) ...
ENTRY_POINTS = (
    "configuration_dinov3seg",
    "modeling_dinov3seg",
    "image_processing_dinov3seg",
    "image_processing_pil_dinov3seg",
    "processing_dinov3seg",
    "pipeline",
)
# ... and with them all that they import. Whatever joins this set has to be flat and light.
REMOTE_SET = {
    *ENTRY_POINTS,
    "chunking",
    "correlation",
    "decoder",
    "dinotxt",
    "early_refinement",
    "files",
    "image_input",
    "inference",
    "late_refinement",
    "prompts",
    "remote_code",
    "semantic_prior",
    "vocabulary",
    "windows",
}
REMOTE_LIBRARIES = {"torch", "numpy", "PIL", "transformers", "huggingface_hub"}

MAX_CHECKPOINT_BYTES = 10_000_000


def imports_of(path: Path) -> Iterator[ast.Import | ast.ImportFrom]:
    """Every import of a file, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node


def relative_imports_of(module: str) -> set[str]:
    nodes = imports_of(PACKAGE / f"{module}.py")
    return {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module}


def relative(path: Path) -> str:
    return path.relative_to(REPO).as_posix()


# --- the remote set ---------------------------------------------------------------------------------------------------


def test_remote_set_is_what_its_entry_points_import():
    reached, waiting = set(), set(ENTRY_POINTS)
    while waiting:
        module = waiting.pop()
        reached.add(module)
        waiting |= relative_imports_of(module) - reached
    assert reached == REMOTE_SET, "the model files import something new: is it to be served with them?"


@pytest.mark.parametrize("module", ENTRY_POINTS)
def test_loader_of_remote_code_finds_every_file(module):
    found = {Path(file).stem for file in get_relative_import_files(PACKAGE / f"{module}.py")}
    expected, waiting = set(), relative_imports_of(module)
    while waiting:
        name = waiting.pop()
        expected.add(name)
        waiting |= relative_imports_of(name) - expected
    assert found == expected


@pytest.mark.parametrize("module", sorted(REMOTE_SET))
def test_remote_module_imports_flat_and_light(module):
    for node in imports_of(PACKAGE / f"{module}.py"):
        line = f"{module}.py:{node.lineno}"
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1 and node.module and "." not in node.module, f"{line}: only `from .name import X`"
            assert all(alias.name != "*" for alias in node.names), f"{line}: names, not *"
            continue
        names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
        for name in names:
            library = name.split(".")[0]
            assert library in REMOTE_LIBRARIES | sys.stdlib_module_names, f"{line}: {library} is not for model files"


# --- the wheel --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pyproject() -> dict:
    return tomllib.loads((REPO / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory) -> set[str]:
    """The files of a wheel, built from a copy: an old `build` folder in the tree would be packed as well."""
    source, target = tmp_path_factory.mktemp("source") / "clone", tmp_path_factory.mktemp("wheel")
    others = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "runs", "*.egg-info")
    shutil.copytree(REPO, source, ignore=others)
    build = "import sys; from setuptools.build_meta import build_wheel; print(build_wheel(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", build, target], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = target.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_wheel_carries_every_file_of_the_package(wheel_names):
    files = {path for path in PACKAGE.rglob("*") if path.is_file()}
    hidden = {path for path in files if any(part.startswith((".", "__pycache__")) for part in path.parts)}
    assert {relative(path) for path in files - hidden} <= wheel_names
    assert "dinov3seg_hf/vocabularies/ade20k-150.tsv" in wheel_names


def test_wheel_carries_nothing_but_the_package_and_its_metadata(wheel_names):
    others = {name for name in wheel_names if not name.startswith(("dinov3seg_hf/", "dinov3seg_hf-"))}
    assert not others
    assert any(name.endswith("licenses/LICENSE") for name in wheel_names)


def test_embedded_checkpoint_is_small_and_complete():
    folder = Path(dinov3seg_hf.TINY)
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json", "README.md"} <= names
    assert sum(path.stat().st_size for path in folder.rglob("*")) <= MAX_CHECKPOINT_BYTES
    assert not [name for name in names if name.endswith(".py")]  # what save_pretrained adds is the package's own code


def test_no_weights_are_pickled():
    suffixes = {".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"}
    folders = [PACKAGE, *(REPO / name for name in ("tests", "scripts", "examples", "demo", "docs"))]
    assert not [relative(path) for folder in folders for path in folder.rglob("*") if path.suffix in suffixes]


def test_pickles_of_others_are_read_as_weights_only():
    for path in (*MODULES, *SCRIPTS):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            function = ast.unparse(node.func)
            assert function not in ("pickle.load", "pickle.loads", "pickle.Unpickler"), (
                f"{relative(path)}:{node.lineno}"
            )
            if function == "torch.load":
                options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert options.get("weights_only") == "True", f"{relative(path)}:{node.lineno}"


# --- versions and commands --------------------------------------------------------------------------------------------


def test_version_is_one(pyproject):
    changes = re.search(r"^## \[([^\]]+)\]", (REPO / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert dinov3seg_hf.__version__ == pyproject["project"]["version"] == changes[1]


def test_every_dependency_has_a_tested_version_in_its_range(pyproject):
    extras = pyproject["project"]["optional-dependencies"]
    required = [Requirement(line) for line in (*pyproject["project"]["dependencies"], *sum(extras.values(), []))]
    lines = [line.partition("#")[0].strip() for line in (REPO / "constraints.txt").read_text().splitlines()]
    pins = [Requirement(line) for line in lines if line]
    for requirement in required:
        if requirement.name == pyproject["project"]["name"]:
            continue
        for python in ("3.10", "3.11", "3.12", "3.13"):
            tested = [
                next(iter(pin.specifier)).version
                for pin in pins
                if pin.name == requirement.name
                and (pin.marker is None or pin.marker.evaluate({"python_version": python}))
            ]
            assert len(tested) == 1, f"{requirement.name} on Python {python}: {tested}"
            assert requirement.specifier.contains(Version(tested[0])), f"{requirement} and the tested {tested[0]}"


def test_command_is_installed_under_the_name_that_readme_uses(pyproject):
    module, _, function = pyproject["project"]["scripts"]["dinov3seg"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_ci_runs_the_commands_of_readme():
    readme, script = (REPO / "README.md").read_text(), (REPO / ".ci" / "run").read_text()
    shell_lines = "\n".join(re.findall(r"^```bash\n(.*?)^```", readme, flags=re.MULTILINE | re.DOTALL)).splitlines()
    quoted = re.findall(r"""=\$\(readme_command (["'])(.+)\1\)""", script)
    assert len(quoted) == 2
    for _, beginning in quoted:
        assert len([line for line in shell_lines if line.startswith(beginning)]) == 1, beginning
    for variable in ("segment_command", "test_command"):
        assert f'bash -euo pipefail -c "${variable}"' in script


def test_files_that_readme_commands_read_are_there():
    readme = (REPO / "README.md").read_text()
    named = set(re.findall(r"(?:examples|docs)/[\w./-]+\.(?:png|jpg)", readme))
    assert named and not [name for name in sorted(named) if not (REPO / name).is_file()]


# --- files and names --------------------------------------------------------------------------------------------------


def test_module_begins_with_license_and_contract():
    for path in MODULES:
        text = path.read_text()
        assert text.startswith("# Copyright 2026 The dinov3seg_hf Authors.\n#"), relative(path)
        assert 'Licensed under the Apache License, Version 2.0 (the "License")' in text[:200], relative(path)
        assert ast.get_docstring(ast.parse(text)), f"{relative(path)}: say what the module knows and does not know"


def test_files_are_written_in_the_oldest_supported_python(pyproject):
    oldest = re.fullmatch(r">=3\.(\d+)", pyproject["project"]["requires-python"])
    for path in (*MODULES, *SCRIPTS, *TESTS):
        ast.parse(path.read_text(), filename=relative(path), feature_version=(3, int(oldest[1])))


def test_no_module_is_a_drawer_for_everything():
    assert not [relative(path) for path in MODULES if path.stem in {"utils", "util", "helpers", "misc", "common"}]


@pytest.mark.parametrize("name", sorted(name for name in dinov3seg_hf.__all__ if callable(getattr(dinov3seg_hf, name))))
def test_public_name_is_documented(name):
    value = getattr(dinov3seg_hf, name)
    assert value.__doc__
    for key, member in inspect.getmembers(value) if inspect.isclass(value) else ():
        is_own = str(getattr(member, "__module__", "")).startswith("dinov3seg_hf")
        if is_own and callable(member) and not key.startswith("_"):
            assert inspect.getdoc(member), f"{name}.{key}"  # its own, or that of what it overrides
