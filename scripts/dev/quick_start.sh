#!/usr/bin/env bash
# Runs the quick start of README.md with the `dinov3seg` that is installed: scripts/dev/quick_start.sh REPOSITORY
# It reads the command from the README, without the installation before `&&`, and works in the current folder.
set -euo pipefail
repository=$1
command=$(sed -n 's/^pip install -c constraints.txt \. && \(dinov3seg segment .*\)$/\1/p' "$repository/README.md")
[ -n "$command" ] || { echo "The quick start was not found in README.md." >&2; exit 1; }
cp -r "$repository/examples" .
rm -f out.png
bash -euo pipefail -c "$command"
test -s out.png
