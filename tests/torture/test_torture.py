# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""A short selection; `make torture` goes on for ten minutes."""

import subprocess
import sys

import pytest

from places import REPO


@pytest.mark.multiprocess
def test_stopped_or_on_a_full_disk_commands_give_in_the_end_what_one_whole_run_gives():
    scenarios = ["segment", "video", "tiles", "annotations", "label", "prepare", "evaluate"]
    command = [sys.executable, "-m", "tests.torture", *scenarios]
    done = subprocess.run([*command, "--attempts", "4", "--processes", "1"], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].endswith(" attempts, 0 bad")
