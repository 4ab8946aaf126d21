# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Looks for known vulnerabilities in the tested versions, with pip-audit: `make check-deps`.

Exit codes: 0 none found, 1 some found, 3 not checked, because the database could not be asked.
"""

import json
import subprocess
import sys
from pathlib import Path

CONSTRAINTS = Path(__file__).resolve().parents[2] / "constraints.txt"
NOT_CHECKED = 3
MAX_REASON = 100


def main() -> int:
    """Runs pip-audit and returns the exit code."""
    audit = [sys.executable, "-m", "pip_audit", "--requirement", str(CONSTRAINTS), "--no-deps", "--disable-pip"]
    done = subprocess.run([*audit, "--format", "json", "--progress-spinner", "off"], capture_output=True, text=True)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        reason = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        if "No module named pip_audit" in reason:
            print("NOT CHECKED: pip-audit is not installed. Run `make check-deps`, which installs it.")
        else:
            print(
                "NOT CHECKED: pip-audit got no answer from its database, which is on the network. Run it again where "
                f"there is one. It said: {reason[:MAX_REASON]}"
            )
        return NOT_CHECKED
    skipped = [f"{package['name']}: {package['skip_reason']}" for package in packages if "skip_reason" in package]
    found = [
        f"{package['name']} {package['version']}: {problem['id']}, fixed in {', '.join(problem['fix_versions']) or '-'}"
        for package in packages
        for problem in package.get("vulns", ())
    ]
    print("\n".join([*found, *(f"not checked: {line}" for line in skipped)]))
    print(f"{len(packages) - len(skipped)} packages checked, {len(found)} known vulnerabilities")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
