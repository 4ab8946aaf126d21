# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""An attempt: a command is stopped at a random moment, or its disk is full, and it runs again."""

import functools
import random
import re
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from .processes import Command
from .scenarios import SCENARIOS, Snapshot

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
FULL_DISK = "full disk"
LEFTOVER = re.compile(r"\..*\.(tmp|partial|earlier|writing\.tif)|\.publishing")
# How a stopped command tells how to go on.
HOW_TO_GO_ON = re.compile(r"interrupted; .*(again|resume)|Resume the run with --resume")
# A command that ended before it was stopped refuses to write its result again.
DONE = re.compile(r"already exist|is not empty|is not an empty folder|already contains")
PATIENCE_SECONDS = 900


@dataclass(frozen=True)
class Reference:
    """A whole run: its result, and how long it took, in seconds."""

    snapshot: Snapshot
    seconds: float
    num_bytes: int


@dataclass(frozen=True)
class Outcome:
    """What came of an attempt.

    Attributes:
        what: What was done to the command.
        codes: The exit codes of the first call.
        problems: What is not as it must be; empty if all is well.
    """

    what: str
    codes: list[int | None]
    problems: list[str]


class Attempts:
    """Attempts on one command.

    Args:
        name: The scenario.
        count: The number of processes.
        data: The folder that `make_data` filled.
        folder: A folder for results.
    """

    def __init__(self, name: str, count: int, data: Path, folder: Path):
        self.name, self.count, self.scenario = name, count, SCENARIOS[name]
        self.data, self.folder = data, folder
        self._out = folder / "out"  # the same path each time, because it may be in the result
        self._log = folder / "log.txt"

    @functools.cached_property
    def reference(self) -> Reference:
        self._fresh()
        command = self._start()
        codes = command.wait(PATIENCE_SECONDS)
        seconds = time.monotonic() - command.started
        assert not any(codes), f"{self.name}: {codes}: {self._log.read_text()}"
        size = sum(path.stat().st_size for path in self._out.rglob("*") if path.is_file())
        return Reference(self.scenario.snapshot(self._out), seconds, size)

    def _fresh(self) -> None:
        shutil.rmtree(self._out, ignore_errors=True)
        self._out.mkdir(parents=True)

    def _start(self, again: bool = False) -> Command:
        self._log.unlink(missing_ok=True)
        return Command(self.scenario.command(self.data, self._out, again), self.count, self._log)

    def run(self, seed: int, what: signal.Signals | str) -> Outcome:
        """Makes one attempt, after the whole run if it is the first one."""
        assert self.reference.snapshot
        self._fresh()
        draw = random.Random(f"{self.name} {self.count} {seed}").random()
        return self._on_full_disk(draw) if what == FULL_DISK else self._stopped(draw, signal.Signals(what))

    def _stopped(self, draw: float, number: signal.Signals) -> Outcome:
        command = self._start()
        command.wait(draw * self.reference.seconds)
        command.send(number)
        codes = command.wait(PATIENCE_SECONDS)
        problems = [f"{name} is an orphan" for name in command.survivors()]
        printed = self._log.read_text(errors="replace")
        if "Traceback" in printed:
            problems.append(f"a traceback: {printed[-2000:]}")
        if number != signal.SIGKILL and codes[0] == 130 and not HOW_TO_GO_ON.search(printed):
            problems.append(f"it does not say how to go on: {printed[-300:]}")
        if not set(codes) <= {0, 130, -number, None} or None in codes:
            problems.append(f"exit codes {codes}: {printed[-500:]}")
        return Outcome(f"{number.name} at {draw:.0%}", codes, problems + self._again())

    def _on_full_disk(self, draw: float) -> Outcome:
        """On a small file system of its own, which is full before all is written, and then has room."""
        size = max(4096, int(draw * 0.9 * self.reference.num_bytes))
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", self._out], check=True)
        filler = self._out / "filler"
        if size >= self.reference.num_bytes:  # the result would fit into one page
            filler.write_bytes(bytes(size))
        try:
            codes = self._start().wait(PATIENCE_SECONDS)
            printed = self._log.read_text(errors="replace")
            errors = [line for line in printed.splitlines() if ": error: " in line]
            problems = []
            if codes[0] != 2 or len(errors) != 1 or "Traceback" in printed:
                problems.append(f"exit codes {codes}, {len(errors)} lines of errors: {printed[-2000:]}")
            room = 4 * self.reference.num_bytes + 2**24
            subprocess.run(["mount", "-o", f"remount,size={room}", self._out], check=True)
            filler.unlink(missing_ok=True)
            return Outcome(f"{FULL_DISK}: {size} of {self.reference.num_bytes} bytes", codes, problems + self._again())
        finally:
            subprocess.run(["umount", self._out], check=True)

    def _again(self) -> list[str]:
        codes = self._start(again=True).wait(PATIENCE_SECONDS)
        printed = self._log.read_text(errors="replace")
        if any(codes) and not DONE.search(printed):
            return [f"the second call: exit codes {codes}: {printed[-2000:]}"]
        found, expected = self.scenario.snapshot(self._out), self.reference.snapshot
        different = [name for name in {**found, **expected} if found.get(name) != expected.get(name)]
        problems = [f"other result than that of one run: {', '.join(sorted(different)[:5])}"] if different else []
        leftovers = [str(path) for path in self._out.rglob("*") if LEFTOVER.fullmatch(path.name)]
        return problems + [f"{path} is left" for path in leftovers]


def can_mount(folder: Path) -> bool:
    """Returns whether this process can mount a small file system, which takes root on Linux."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "none", folder], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return False
    subprocess.run(["umount", folder], check=True)
    return True
