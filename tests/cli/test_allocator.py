# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
import os
import platform
import resource
import subprocess
import sys

import pytest

from dinov3seg_hf.cli import allocator

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is not that of glibc")

BLOCK = 16 * 2**20
SCRIPT = """
import resource, runpy, sys

keep_freed_memory = runpy.run_path(sys.argv[1])["keep_freed_memory"]
size = int(sys.argv[3])
print(sys.argv[2] == "keep" and keep_freed_memory())
for _ in range(4):  # the first rounds raise thresholds of glibc, and get new pages in any case
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [b"x" * size for _ in range(5)]
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(argument, **variables):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, allocator.__file__, argument, str(BLOCK)],
        env={**environment, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    kept, count = run.stdout.split()
    return kept == "True", int(count)


def test_pages_of_freed_tensors_are_used_again():
    pages = BLOCK // resource.getpagesize()
    assert faults("leave")[1] > 3 * pages
    kept, count = faults("keep")
    assert kept and count < pages // 10


def test_a_setting_of_the_user_stays():
    kept, _ = faults("keep", MALLOC_TRIM_THRESHOLD_="131072")
    assert not kept
