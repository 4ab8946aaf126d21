"""Makes transformers' common test suite importable; `make hf-common` fetches it and runs the tests of this folder.

The suite's own folder is a package named `tests`, so neither this folder nor the one above may be one.
"""

import os
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

HERE = Path(__file__).resolve().parent
SUITE = HERE.parent.parent / ".cache" / "transformers-tests" / transformers.__version__

os.environ.setdefault("HF_HUB_OFFLINE", "1")
if not SUITE.exists():
    raise pytest.UsageError(
        f"The common tests of transformers {transformers.__version__} are not here: run `make hf-common`, which "
        "fetches them, or `python scripts/dev/fetch_transformers_tests.py`."
    )
sys.path[:0] = [str(SUITE), str(HERE)]

MARKERS = (
    "accelerate_tests",
    "all_flash_attn_test",
    "bitsandbytes",
    "flash_attn_3_test",
    "flash_attn_4_test",
    "flash_attn_test",
    "generate",
    "is_training_test",
    "not_device_test",
    "torch_compile_test",
    "torch_export_test",
)


def pytest_configure(config):
    for marker in MARKERS:
        config.addinivalue_line("markers", f"{marker}: of transformers' suite")


def pytest_runtest_setup(item):
    """The same random numbers for each test, whatever else runs."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
