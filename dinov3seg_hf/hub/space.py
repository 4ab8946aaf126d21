# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Builds the files of a Space repository on the Hub: the demo, the imported package, pinned requirements."""

import os
import re
import shutil
import sys
from collections.abc import Sequence
from importlib import metadata as installed
from pathlib import Path

import yaml
from huggingface_hub import metadata_load
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from ..model.image_input import open_image
from ..visualization.files import save_image
from .example import Example
from .model_card import without_relative_links
from .upload import PublishingError

PACKAGE = Path(__file__).parent.parent


def build_space_folder(
    demo: str | os.PathLike | None,
    repo_id: str,
    space_id: str,
    output: str | os.PathLike,
    *,
    example: Example | None = None,
    constraints: str | os.PathLike | None = None,
) -> Path:
    """Writes all files of the Space repository: the demo, the package that it imports, pinned requirements.

    `app.py` reads the model name and the folder of examples from the environment variables `DINOV3SEG_MODEL` and
    `DINOV3SEG_EXAMPLES`; this function inserts the defaults of both variables.

    Args:
        demo: A folder with `app.py`, `requirements.txt` and `README.md`. Default: "demo".
        repo_id: The repository of the model that the Space loads.
        space_id: The target repository of the Space.
        output: The folder to create.
        example: The example on the page of the demo.
        constraints: A file of pinned versions. Default for each requirement: the installed version.

    Raises:
        PublishingError: If a file is missing, or the version of a requirement is unknown.
    """
    demo, output = Path(demo or "demo"), Path(output)
    for name in ("app.py", "requirements.txt", "README.md"):
        if not (demo / name).is_file():
            raise PublishingError(f"File {name!r} was not found in the demo folder {str(demo)!r}. Check the path.")
    ignored = shutil.ignore_patterns("__pycache__", ".*", "*.pyc")
    shutil.copytree(demo, output, ignore=ignored)
    # The package is not on PyPI. The embedded checkpoint is not copied, because the Space loads the published model.
    shutil.copytree(PACKAGE, output / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__", "checkpoints"))

    defaults = {"DINOV3SEG_MODEL": repo_id}
    if example is not None:
        (output / "examples").mkdir(exist_ok=True)
        image = output / "examples" / example.file_name
        save_image(image, open_image(example.image))  # a photo can tell where it was taken
        image.with_suffix(".txt").write_text(example.labels + "\n", encoding="utf-8")
        defaults["DINOV3SEG_EXAMPLES"] = "examples"

    pins = _pinned(_dependencies(demo / "requirements.txt"), constraints)
    (output / "requirements.txt").write_text("".join(f"{pin}\n" for pin in pins.values()), encoding="utf-8")
    app = (demo / "app.py").read_text(encoding="utf-8")
    (output / "app.py").write_text(_with_defaults(app, defaults), encoding="utf-8")
    if "gradio" not in pins:
        raise PublishingError(
            f"gradio was not found in the requirements of {str(demo)!r}; the Space needs gradio. Add gradio to "
            "requirements.txt."
        )
    card = _space_card(demo / "README.md", repo_id, space_id, pins["gradio"].partition("==")[2])
    (output / "README.md").write_text(card, encoding="utf-8")
    return output


def _dependencies(requirements: Path) -> list[Requirement]:
    """The requirements of the demo; the package, which is copied, is replaced by its own requirements."""
    lines = [line.partition("#")[0].strip() for line in requirements.read_text(encoding="utf-8").splitlines()]
    try:
        named = [Requirement(line) for line in lines if line and not line.startswith(("-", "./"))]
    except InvalidRequirement as error:
        raise PublishingError(
            f"{str(requirements)!r} contains an invalid requirement ({error}). Correct this line."
        ) from error
    package = canonicalize_name(PACKAGE.name)
    extras = {"", *(extra for item in named if canonicalize_name(item.name) == package for extra in item.extras)}
    try:
        own = [Requirement(line) for line in installed.requires(PACKAGE.name) or ()]
    except installed.PackageNotFoundError as error:
        raise PublishingError(
            f"{PACKAGE.name} is not installed, so its requirements are unknown. Install {PACKAGE.name} with pip."
        ) from error
    own = [item for item in own if item.marker is None or any(item.marker.evaluate({"extra": e}) for e in extras)]
    return [item for item in (*named, *own) if canonicalize_name(item.name) != package]


def _pinned(requirements: Sequence[Requirement], constraints: str | os.PathLike | None) -> dict[str, str]:
    """A mapping from canonical name to "name==version", in the order of the requirements."""
    versions: dict[str, str] = {}
    if constraints is not None:
        for line in Path(constraints).read_text(encoding="utf-8").splitlines():
            if (line := line.partition("#")[0].strip()) and "==" in line:
                pin = Requirement(line)
                if pin.marker is None or pin.marker.evaluate():
                    versions[canonicalize_name(pin.name)] = next(iter(pin.specifier)).version
    pins: dict[str, str] = {}
    for requirement in requirements:
        name = canonicalize_name(requirement.name)
        try:
            version = versions.get(name) or installed.version(requirement.name).partition("+")[0]
        except installed.PackageNotFoundError as error:
            raise PublishingError(
                f"The version of {requirement.name}, which the Space requires, is unknown. Install {requirement.name}, "
                "or add a version to the constraints."
            ) from error
        pins[name] = f"{requirement.name}=={version}"
    return pins


def _with_defaults(app: str, variables: dict[str, str]) -> str:
    """Inserts defaults of environment variables before the imports of the app. Variables set on the Space win."""
    lines = "".join(f'os.environ.setdefault("{name}", "{value}")\n' for name, value in variables.items())
    # after the license header and the docstring, before the imports
    start = re.match(r'(?:#.*\n)*\s*(?:"""(?:.|\n)*?"""\s*\n)?\s*', app)
    assert start is not None  # the pattern also matches an empty text
    return f"{app[: start.end()]}import os\n\n{lines}\n{app[start.end() :]}"


def _space_card(path: Path, repo_id: str, space_id: str, gradio_version: str) -> str:
    text = path.read_text(encoding="utf-8")
    data = metadata_load(path) or {}
    if data.get("sdk", "gradio") != "gradio":
        raise PublishingError(
            f"sdk is {data['sdk']!r} in {str(path)!r}; expected 'gradio'. Correct sdk in the front matter."
        )
    data |= {"sdk": "gradio", "sdk_version": gradio_version, "app_file": "app.py", "models": [repo_id]}
    data.setdefault("title", space_id.rpartition("/")[2])
    data["python_version"] = f"{sys.version_info.major}.{sys.version_info.minor}"
    body = re.sub(r"\A---\n.*?\n---\n?", "", text, count=1, flags=re.DOTALL).lstrip()
    front_matter = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    runs = f"This Space runs [{repo_id}](https://huggingface.co/{repo_id})."
    return f"---\n{front_matter}---\n\n{runs}\n\n{without_relative_links(body)}"


__all__ = ["build_space_folder"]
