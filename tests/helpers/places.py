# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Where things are, for tests at any depth."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

TESTS = Path(__file__).resolve().parent.parent
REPO = TESTS.parent
SCRIPTS = REPO / "scripts"
FIXTURES = TESTS / "fixtures"
HELPERS = TESTS / "helpers"


def load_script(path: Path) -> ModuleType:
    """A script as a module; what lies beside it can be imported, as when it is run."""
    specification = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(specification)
    sys.path.insert(0, str(path.parent))
    try:
        specification.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module
