# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Downloads the common test suite of the installed transformers version, for `make hf-common`.

    python scripts/dev/fetch_transformers_tests.py        # once per version; a second call does nothing

The wheel of transformers does not contain tests. The source distribution contains `tests/test_*.py`, but not all
modules that these files import. pip downloads the source distribution; this script unpacks the test files and adds
stand-ins for the missing modules.
"""

import argparse
import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path

CACHE = Path(__file__).resolve().parent.parent.parent / ".cache" / "transformers-tests"

STAND_INS = {
    # the tests pass their own folder to `direct_transformers_import`, which requires a package
    "tests/__init__.py": "",
    # tests of export and of text generation, which do not apply to a segmentation model
    "tests/exporters/__init__.py": "",
    "tests/exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "tests/generation/__init__.py": "",
    "tests/generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    # values that differ from the defaults, for the fields of every configuration
    "tests/utils/__init__.py": "",
    "tests/utils/test_configuration_utils.py": """\
config_common_kwargs = {
    "return_dict": False,
    "output_hidden_states": True,
    "output_attentions": True,
    "dtype": "float16",
    "chunk_size_feed_forward": 5,
    "architectures": ["BertModel"],
    "problem_type": "regression",
    "id2label": {0: "label"},
    "label2id": {"label": "0"},
}
""",
    # the images of the tests, drawn instead of downloaded
    "utils/fetch_hub_objects_for_ci.py": '''\
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def url_to_local_path(url, **kwargs):
    """Draws an image instead of a download: always the same for a URL, and a label map for the PNG files of ADE20K."""
    if not url.lower().endswith((".png", ".jpg", ".jpeg")):
        return url
    seed = zlib.crc32(url.encode())
    path = Path(__file__).parent / f"image_{seed:08x}.png"
    if not path.exists():
        is_label_map = url.endswith(".png") and "ade20k" in url
        pixels = np.random.default_rng(seed).integers(0, 255, (48, 64) if is_label_map else (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return str(path)
''',
}


def folder_of(transformers_version: str) -> Path:
    """Returns the folder of the suite of a version. Its `tests` and `utils` must be on the import path."""
    return CACHE / transformers_version


def download(transformers_version: str, folder: Path) -> Path:
    """Downloads the source distribution with pip, from the package index that pip is configured to use."""
    requirement = f"transformers=={transformers_version}"
    options = ["--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--quiet", "--dest", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "download", *options, requirement], check=True)
    return next(folder.glob("transformers-*.tar.gz"))


def unpack(archive: Path, folder: Path) -> None:
    """Writes the suite to `folder` atomically."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        partial = Path(temporary) / folder.name
        for name, text in STAND_INS.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).write_text(text)
        with tarfile.open(archive) as tar:
            for member in tar:
                path = Path(member.name)  # transformers-<version>/tests/test_<name>.py
                if member.isfile() and path.parts[1:-1] == ("tests",) and path.match("test_*.py"):
                    (partial / "tests" / path.name).write_bytes(tar.extractfile(member).read())
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archive", type=Path, help="local file transformers-<version>.tar.gz")
    archive = parser.parse_args().archive

    installed = version("transformers")
    folder = folder_of(installed)
    if folder.exists():
        return
    if archive is not None:
        if archive.name != f"transformers-{installed}.tar.gz":
            parser.error(f"--archive is {archive.name}; expected transformers-{installed}.tar.gz (installed)")
        unpack(archive, folder)
        return
    with tempfile.TemporaryDirectory() as temporary:
        unpack(download(installed, Path(temporary)), folder)


if __name__ == "__main__":
    main()
