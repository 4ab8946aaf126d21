# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The scripts that measure take what people have: a photo of any size, weights of their own."""

import numpy as np
import pytest
from PIL import Image

from dinov3seg_hf import TINY

from places import SCRIPTS, load_script


@pytest.fixture(scope="module")
def conversion():
    return load_script(SCRIPTS / "measure" / "conversion.py")


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photos") / "mine.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (61, 103, 3), dtype=np.uint8)).save(path)
    return str(path)


@pytest.mark.parametrize("mode", ["slide", "local-global", "whole, refine=pixels", "whole, refine_features"])
def test_a_photo_of_any_size_is_measured_in_every_mode_in_bfloat16(conversion, photo, mode):
    figures = conversion.run_photo(TINY, mode, "bfloat16", photo, num_labels=3)
    assert all(figure > 0 for figure in figures.values()) and figures["peak RSS (GB)"] > 0.1
    assert conversion.open_photo(photo).size == (103, 61) and conversion.open_photo(None).size == (640, 427)


@pytest.mark.parametrize("content", [None, b"no image"])
def test_a_photo_that_is_none_is_named_before_files_are_written(conversion, tmp_path, capsys, monkeypatch, content):
    path = tmp_path / "mine.jpg"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setattr("sys.argv", ["conversion.py", "photo", "--photo", str(path)])
    with pytest.raises(SystemExit) as stopped:
        conversion.main()
    assert stopped.value.code == 2 and "mine.jpg" in capsys.readouterr().err
