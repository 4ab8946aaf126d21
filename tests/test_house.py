# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The rules of the house: what the Hub can serve, what a wheel must carry, what every file and public name has."""

import ast
import importlib
import inspect
import itertools
import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version
from transformers.dynamic_module_utils import get_relative_import_files

import dinov3seg_hf
from dinov3seg_hf.cli import COMMANDS
from dinov3seg_hf.resources import resource

from places import REPO

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PACKAGE = REPO / "dinov3seg_hf"
MODULES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = sorted(path for folder in ("scripts", "benchmarks") for path in (REPO / folder).rglob("*.py"))
TESTS = sorted((REPO / "tests").rglob("*.py"))

# A room, or a file at the top, may import rooms of a lower rank only. CONTRIBUTING.md draws it.
RANKS = {
    "about": 0,
    "checkpoint_names": 2,
    "file_names": 0,
    "kept_errors": 0,
    "process_errors": -1,
    "compat": 0,
    "distributed": 0,
    "extras": 0,
    "hub_connection": 2,
    "resources": 0,
    "signals": -1,
    "versions": 1,
    "lazy_names": 0,
    "model": 1,
    "metrics": 2,
    "batches": 2,
    "drawn_world": 2,
    "doctor": 2,
    "visualization": 3,
    "conversion": 3,
    "large": 4,
    "video": 4,
    "data": 4,
    "annotations": 5,
    "evaluation": 5,
    "registration": 2,
    "dataset_labeling": 6,
    "loading": 6,
    "ray": 7,
    "serving": 7,
    "exporting": 7,
    "training": 7,
    "hub": 7,
    "demo": 8,
    "cli": 9,
    "__main__": 10,
    "__init__": 10,
}
MAX_MODULE_LINES, MAX_FUNCTION_LINES = 550, 80

# The Hub serves these beside config.json (`trust_remote_code=True`), and with them all that they import.
ENTRY_POINTS = (
    "configuration_dinov3seg",
    "modeling_dinov3seg",
    "image_processing_dinov3seg",
    "image_processing_pil_dinov3seg",
    "processing_dinov3seg",
    "pipeline",
)
REMOTE_SET = sorted(path.stem for path in (PACKAGE / "model").glob("*.py") if path.stem != "__init__")
REMOTE_LIBRARIES = {"torch", "numpy", "PIL", "transformers", "huggingface_hub", "yaml"}  # transformers needs PyYAML

MAX_CHECKPOINT_BYTES = 10_000_000
# Hidden files that belong to the repository.
HIDDEN = (".ci/run", ".gitignore", ".pre-commit-config.yaml")


def imports_of(path: Path) -> Iterator[ast.Import | ast.ImportFrom]:
    """Every import of a file, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node


def imported_modules(path: Path) -> Iterator[tuple[int, str, str]]:
    """(line, module, name) of every import of this package: "dinov3seg_hf.model.windows", "plan_windows"."""
    package = ["dinov3seg_hf", *path.relative_to(PACKAGE).parent.parts]
    for node in imports_of(path):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, "") for alias in node.names if alias.name.startswith("dinov3seg_hf"))
        else:
            module = node.module or ""
            if node.level:
                base = package[: len(package) - node.level + 1]
                module = ".".join([*base, module] if module else base)
            if module.split(".")[0] == "dinov3seg_hf":
                yield from ((node.lineno, module, alias.name) for alias in node.names)


def relative_imports_of(module: str) -> set[str]:
    nodes = imports_of(PACKAGE / "model" / f"{module}.py")
    return {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module}


def relative(path: Path) -> str:
    return path.relative_to(REPO).as_posix()


# --- the rooms --------------------------------------------------------------------------------------------------------


def room_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def test_every_room_has_a_rank_and_says_what_it_holds():
    rooms = {room_of(path) for path in MODULES}
    assert rooms == set(RANKS)
    for folder in sorted(path for path in PACKAGE.iterdir() if path.is_dir() and any(path.glob("*.py"))):
        docstring = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
        assert "import" in docstring.lower(), f"{relative(folder)}/__init__.py: say what the room may import"


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_rooms_import_lower_rooms_only_and_nobody_the_package_itself(path):
    for line, module, name in imported_modules(path):
        where = f"{relative(path)}:{line}"
        parts = module.split(".")
        assert len(parts) > 1, f"{where}: import {name} from the file that defines it, not from the package"
        if parts[1] != room_of(path):
            assert RANKS[parts[1]] < RANKS[room_of(path)], f"{where}: {parts[1]} is no lower room than {room_of(path)}"


@pytest.mark.parametrize("path", [*MODULES, *SCRIPTS], ids=relative)
def test_no_private_name_crosses_a_file(path):
    for node in imports_of(path):
        if isinstance(node, ast.ImportFrom):
            private = [alias.name for alias in node.names if re.match(r"_(?!_)", alias.name)]
            assert not private, f"{relative(path)}:{node.lineno}: {private} of {node.module}"


@pytest.mark.parametrize("path", [*MODULES, *SCRIPTS], ids=relative)
def test_modules_and_functions_fit_in_a_reader_s_head(path):
    text = path.read_text()
    assert text.count("\n") <= MAX_MODULE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno - node.lineno < MAX_FUNCTION_LINES, f"{relative(path)}:{node.lineno} {node.name}"


def test_names_of_other_libraries_that_are_private_are_in_compat_alone():
    """`compat.py` is where to look when a library changes."""
    for path in (*MODULES, *SCRIPTS):
        if path == PACKAGE / "compat.py":
            continue
        for node in imports_of(path):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            for module in modules:
                private = [part for part in module.split(".") if re.match(r"_(?!_)", part)]
                assert not private, f"{relative(path)}:{node.lineno}: {module}"


# --- the remote set ---------------------------------------------------------------------------------------------------


def test_remote_set_is_what_its_entry_points_import():
    reached, waiting = set(), set(ENTRY_POINTS)
    while waiting:
        module = waiting.pop()
        reached.add(module)
        waiting |= relative_imports_of(module) - reached
    assert sorted(reached) == REMOTE_SET, "a file of model/ that nothing there imports, or the reverse"


@pytest.mark.parametrize("module", ENTRY_POINTS)
def test_loader_of_remote_code_finds_every_file(module):
    found = {Path(file).stem for file in get_relative_import_files(PACKAGE / "model" / f"{module}.py")}
    expected, waiting = set(), relative_imports_of(module)
    while waiting:
        name = waiting.pop()
        expected.add(name)
        waiting |= relative_imports_of(name) - expected
    assert found == expected


@pytest.mark.parametrize("module", REMOTE_SET)
def test_remote_module_imports_flat_and_light(module):
    for node in imports_of(PACKAGE / "model" / f"{module}.py"):
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
def clone(tmp_path_factory) -> Path:
    """A copy of the tree without what commands leave in it: an old `build` folder would be packed as well."""
    source = tmp_path_factory.mktemp("source") / "clone"
    left = [line.strip("/") for line in (REPO / ".gitignore").read_text().splitlines()]
    others = shutil.ignore_patterns(".*", *left)
    shutil.copytree(REPO, source, ignore=others)
    for name in HIDDEN:
        (source / name).parent.mkdir(exist_ok=True)
        shutil.copy(REPO / name, source / name)
    return source


def build(kind: str, source: Path, target: Path) -> Path:
    """Builds a "wheel" or an "sdist"."""
    code = f"import sys; from setuptools.build_meta import build_{kind} as build; build(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, target], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (archive,) = target.iterdir()
    return archive


@pytest.fixture(scope="module")
def wheel_names(clone, tmp_path_factory) -> set[str]:
    with zipfile.ZipFile(build("wheel", clone, tmp_path_factory.mktemp("wheel"))) as archive:
        return set(archive.namelist())


def test_source_distribution_carries_the_whole_repository(clone, tmp_path):
    """Its tests pass from the unpacked archive, so it has all that they read."""
    files = {path.relative_to(clone).as_posix() for path in clone.rglob("*") if path.is_file()}
    with tarfile.open(build("sdist", clone, tmp_path)) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    generated = ("build/", "dinov3seg_hf.egg-info/")
    assert {name for name in files if not name.startswith(generated)} <= packed


def test_wheel_carries_every_file_of_the_package(wheel_names):
    files = {path for path in PACKAGE.rglob("*") if path.is_file()}
    hidden = {path for path in files if any(part.startswith((".", "__pycache__")) for part in path.parts)}
    assert {relative(path) for path in files - hidden} <= wheel_names
    assert "dinov3seg_hf/model/vocabularies/ade20k-150.tsv" in wheel_names


def test_wheel_carries_what_an_installed_package_needs_of_the_repository(wheel_names):
    paths = [path for folder in ("demo", "recipes") for path in (REPO / folder).iterdir() if path.is_file()]
    for path in [REPO / "model_card.md", *paths, *(REPO / "examples").glob("*.png")]:
        assert resource(relative(path)) == path  # in a clone, the file itself
        assert f"dinov3seg_hf/resource_files/{relative(path)}" in wheel_names
    assert "dinov3seg_hf/py.typed" in wheel_names


def test_wheel_carries_nothing_but_the_package_and_its_metadata(wheel_names):
    others = {name for name in wheel_names if not name.startswith(("dinov3seg_hf/", "dinov3seg_hf-"))}
    assert others == {"dinov3seg_command.py"}  # the entry of the command, which must not import the package
    assert any(name.endswith("licenses/LICENSE") for name in wheel_names)


def test_the_image_of_the_service_installs_what_the_wheel_has(clone, wheel_names, tmp_path):
    """The Dockerfile copies single files and folders; one that it lacks would be missed only in a container."""
    app = tmp_path / "app"
    app.mkdir()
    for line in (REPO / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY "):
            *sources, target = line.split()[1:]
            for source in sources:
                if (clone / source).is_dir():
                    shutil.copytree(clone / source, app / target)
                else:
                    shutil.copy(clone / source, app / target)
    with zipfile.ZipFile(build("wheel", app, tmp_path / "wheel")) as archive:
        assert set(archive.namelist()) == wheel_names


def test_the_image_of_the_service_starts_a_command_that_exists(pyproject):
    text = (REPO / "Dockerfile").read_text()
    (extras,) = re.findall(r'pip install .*"\.\[([\w,]+)\]"', text)
    assert set(extras.split(",")) <= set(pyproject["project"]["optional-dependencies"])
    (python,) = re.findall(r"^FROM python:(\d+\.\d+)", text, flags=re.MULTILINE)
    assert SpecifierSet(pyproject["project"]["requires-python"]).contains(python)
    (entry,) = re.findall(r"^ENTRYPOINT (.+)$", text, flags=re.MULTILINE)
    program, command, *arguments = json.loads(entry)
    assert program in pyproject["project"]["scripts"] and COMMANDS[command].extra in extras.split(",")
    module = importlib.import_module(f"dinov3seg_hf.cli.{command}")
    options = module.make_parser("").parse_args([*arguments, "--model", "/model"])  # a checkpoint is added at the end
    assert options.host == "0.0.0.0" and options.model == "/model"
    assert re.findall(r"^EXPOSE (\d+)$", text, flags=re.MULTILINE) == [str(options.port)]
    assert f"http://localhost:{options.port}/health" in text


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


def test_images_of_others_are_opened_in_safe_formats_only():
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            # the readers of `datasets` know no safe formats, and decode before anything is checked
            assert not (isinstance(node, ast.Attribute) and node.attr == "decode_example"), relative(path)
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Image.open":
                formats = [ast.unparse(keyword.value) for keyword in node.keywords if keyword.arg == "formats"]
                assert formats in (["safe_formats()"], ["['JPEG']"]), f"{relative(path)}:{node.lineno}"


# --- versions and commands --------------------------------------------------------------------------------------------


def test_version_is_one(pyproject):
    assert f"\nversion: {dinov3seg_hf.__version__}\n" in (REPO / "CITATION.cff").read_text()
    changes = re.findall(r"^## \[([^\]]+)\]", (REPO / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert changes[0] == "Unreleased"
    assert dinov3seg_hf.__version__ == pyproject["project"]["version"]


def test_every_dependency_has_a_tested_version_in_its_range(pyproject):
    extras = pyproject["project"]["optional-dependencies"]
    required = [
        Requirement(line) for line in (*pyproject["project"]["dependencies"], *itertools.chain(*extras.values()))
    ]
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


def test_no_file_has_an_open_conflict_of_a_merge():
    texts = [path for ending in ("md", "toml", "yaml", "yml", "txt") for path in REPO.glob(f"*.{ending}")]
    texts += [*(REPO / "docs").rglob("*.md"), *(REPO / "recipes").rglob("*.yaml"), *MODULES, *SCRIPTS, *TESTS]
    marker = re.compile(r"^(<{7}|>{7}) ", re.MULTILINE)
    assert [str(path) for path in texts if marker.search(path.read_text(encoding="utf-8"))] == []


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
