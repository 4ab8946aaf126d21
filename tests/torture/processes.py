# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""A command in one or two processes, forked from this one, which has imported the libraries; how they end."""

import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
from tqdm import tqdm

from dinov3seg_hf.cli import main

FORK = multiprocessing.get_context("fork")
# Data loaders and checks that a command starts must end this soon after it.
GRACE_SECONDS = 20


class Command:
    """A running command.

    Args:
        arguments: The arguments of `dinov3seg`.
        count: The number of processes.
        log: The file for what it prints.
    """

    def __init__(self, arguments: Sequence[str], count: int, log: Path):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        ready = [FORK.Event() for _ in range(count)]
        self.log = log
        self.processes = [
            FORK.Process(target=_run, args=(arguments, rank, count, port, log, ready[rank])) for rank in range(count)
        ]
        for process in self.processes:
            process.start()
        for event in ready:
            event.wait()
        self.started = time.monotonic()

    def wait(self, seconds: float | None = None) -> list[int | None]:
        """Waits for the end -> exit codes, `None` if a process still runs."""
        deadline = None if seconds is None else time.monotonic() + seconds
        for process in self.processes:
            process.join(None if deadline is None else max(0, deadline - time.monotonic()))
        return [process.exitcode for process in self.processes]

    def send(self, number: signal.Signals) -> None:
        for process in self.processes:
            if process.is_alive():
                os.kill(process.pid, number)

    def survivors(self) -> list[str]:
        """The processes that the command started and that do not end with it; they are ended here."""
        deadline = time.monotonic() + GRACE_SECONDS
        while (found := self._descendants()) and time.monotonic() < deadline:
            time.sleep(0.1)
        names = [" ".join(process.cmdline()[:4]) for process in found]
        for process in found:
            process.kill()
        return names

    def _descendants(self) -> list[psutil.Process]:
        sessions = {process.pid for process in self.processes}
        found = []
        for process in psutil.process_iter():
            try:
                if os.getsid(process.pid) in sessions and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (OSError, psutil.Error):  # it has ended
                continue
        return found


def _run(arguments: Sequence[str], rank: int, count: int, port: int, log: Path, ready) -> None:
    os.setsid()
    # tqdm's own lock is shared with all forks, and stays taken if one of them is killed while it draws
    tqdm.set_lock(threading.RLock())
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1), os.dup2(file, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if count > 1:  # what a launcher sets
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
        os.environ |= {"LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    try:
        ready.set()
        code = main(arguments)
    except KeyboardInterrupt:  # before `main` was ready for it
        code = 130
    sys.stdout.flush(), sys.stderr.flush()
    sys.exit(code)
