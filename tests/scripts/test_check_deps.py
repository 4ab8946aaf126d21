# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""`make check-deps` tells known vulnerabilities from none, and both from a check that did not take place."""

import json
import subprocess
import sys

import pytest

from places import SCRIPTS

NOT_CHECKED = "NOT CHECKED: pip-audit got no answer from its database"


def answer(*packages):
    return f"print({json.dumps({'dependencies': packages})!r})"


@pytest.mark.parametrize(
    ("program", "code", "printed"),
    [
        (answer({"name": "a", "version": "1", "vulns": []}), 0, "1 packages checked, 0 known vulnerabilities"),
        (
            answer({"name": "a", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]}),
            1,
            "a 1: CVE-1, fixed in 2",
        ),
        (answer({"name": "a", "skip_reason": "unknown"}), 0, "not checked: a: unknown"),
        ("raise ConnectionError('Failed to resolve ' + 1000 * 'x')", 3, NOT_CHECKED),
        ("print('{')", 3, NOT_CHECKED),
        ("raise ModuleNotFoundError('No module named pip_audit')", 3, "Run `make check-deps`, which installs it."),
    ],
)
def test_known_vulnerabilities_and_checks_that_did_not_take_place(tmp_path, monkeypatch, program, code, printed):
    (tmp_path / "pip_audit.py").write_text(program)  # in place of the real one, which asks the network
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    command = [sys.executable, str(SCRIPTS / "dev" / "check_deps.py")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == code and printed in done.stdout and not done.stderr
    if code == 3:
        assert len(done.stdout.splitlines()) == 1 and len(done.stdout) < 300
