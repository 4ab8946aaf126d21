# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Hostile calls of every public entry point: each gives a good result or an error of ours, never anything else.

    python -m tests.fuzz                    # 1,000 cases, and a table of outcomes by family
    python -m tests.fuzz --cases 20000      # more, as in `make fuzz`
    python -m tests.fuzz vocabulary 17      # one case, with its call and its traceback

A case depends only on its family and number. `values.py` draws arguments, `families/` calls, `outcomes.py` judges, and
`guard.py` refuses every write outside the folder of the cases.
"""

import sys
from pathlib import Path

HELPERS = str(Path(__file__).resolve().parent.parent / "helpers")
if HELPERS not in sys.path:  # pytest adds it itself
    sys.path.insert(0, HELPERS)
