# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""A client of the loopback Hub is a process of its own: a script of steps, whose outcomes its tests look at one by one.

The environment of the libraries is read when they are imported, so it is set for the whole process.
"""

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

TOKEN = "hf_SecretOfTheTests"
CLIENTS = Path(__file__).parent


def run_client(script: str, endpoint: str, scratch: Path, *arguments: Any) -> dict[str, Any]:
    """Runs `script` against the Hub at `endpoint`: what each step returned, "stderr", and "output" (with stdout)."""
    scratch.mkdir(parents=True, exist_ok=True)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING_FACE_"))}
    environment |= {
        "HF_ENDPOINT": endpoint,
        "HF_TOKEN": TOKEN,
        "HF_HOME": str(scratch / "home"),
        "HF_HUB_DISABLE_XET": "1",  # the stand-in has none
        "HF_UPDATE_DOWNLOAD_COUNTS": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "OMP_NUM_THREADS": os.environ.get("DINOV3SEG_TEST_THREADS", "1"),  # those of the tests, for equal bits
        "PYTHONPATH": str(CLIENTS),
    }
    outcomes = scratch / "outcomes.json"
    done = subprocess.run(
        [sys.executable, CLIENTS / script, outcomes, *map(str, arguments)],
        env=environment,
        cwd=scratch,
        stdin=subprocess.DEVNULL,  # nobody answers questions
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {**json.loads(outcomes.read_text()), "stderr": done.stderr, "output": done.stdout + done.stderr}


class Steps:
    """Decorates the steps of a client; the failure of one leaves the others alone."""

    def __init__(self):
        self.outcomes: dict[str, Any] = {}

    def __call__(self, function: Callable[[], Any]) -> Callable[[], Any]:
        try:
            self.outcomes[function.__name__] = function()
        except Exception:
            self.outcomes[function.__name__] = {"failed": traceback.format_exc()}
        return function

    def write(self) -> None:
        Path(sys.argv[1]).write_text(json.dumps(self.outcomes))


def outcome(outcomes: dict[str, Any], step: str) -> Any:
    """What a step returned; its traceback is the failure of the test."""
    value = outcomes[step]
    if isinstance(value, dict) and "failed" in value:
        raise AssertionError(value["failed"])
    return value
