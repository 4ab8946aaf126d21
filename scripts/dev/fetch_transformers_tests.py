# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Fetches transformers' own common test suite, of the version that is installed here, for `make hf-common`.

    python scripts/dev/fetch_transformers_tests.py        # once a version; a second call finds it done

The wheel of transformers has no tests, its source distribution has `tests/test_*.py` and nothing around them. pip
downloads that archive; the test files are unpacked beside stand-ins for what they import and the archive lacks.
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
    # `direct_transformers_import` of the tests' own folder needs a package
    "tests/__init__.py": "",
    # tests of exporting and of text generation, neither of which a segmentation model has
    "tests/exporters/__init__.py": "",
    "tests/exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "tests/generation/__init__.py": "",
    "tests/generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    # values unlike the defaults for the fields that every configuration has
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
    # the images of the tests, drawn here instead of downloaded
    "utils/fetch_hub_objects_for_ci.py": '''\
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def url_to_local_path(url, **kwargs):
    """A drawn image in the place of a downloaded one: the same for the same URL, a label map for ADE20K's PNG files."""
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
    """Where the suite of a version lies: its `tests` and `utils` belong on the import path."""
    return CACHE / transformers_version


def download(transformers_version: str, folder: Path) -> Path:
    """The source distribution, by pip: the index that pip is set up to use, and no other."""
    requirement = f"transformers=={transformers_version}"
    options = ["--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--quiet", "--dest", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "download", *options, requirement], check=True)
    return next(folder.glob("transformers-*.tar.gz"))


def unpack(archive: Path, folder: Path) -> None:
    """Writes the suite into `folder`, whole or not at all."""
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
    parser.add_argument("--archive", type=Path, help="a transformers-<version>.tar.gz that is already here")
    archive = parser.parse_args().archive

    installed = version("transformers")
    folder = folder_of(installed)
    if folder.exists():
        return
    if archive is not None:
        if archive.name != f"transformers-{installed}.tar.gz":
            parser.error(f"Got {archive.name}, but transformers {installed} is installed: give its archive, or none.")
        unpack(archive, folder)
        return
    with tempfile.TemporaryDirectory() as temporary:
        unpack(download(installed, Path(temporary)), folder)


if __name__ == "__main__":
    main()
