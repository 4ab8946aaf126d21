# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Scripts in processes of their own that need not import the libraries: they are forked from a process that has.

That process is a new one, without threads, models or a state of torch, and starts once in a test run. Other
tests start scripts as people do: by Python, and by Accelerate's launcher.
"""

import multiprocessing
import multiprocessing.connection
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        "accelerate",
        "datasets",
        "dinov3seg_hf.cli.label",
        "dinov3seg_hf.dataset_labeling.labeler",
        "dinov3seg_hf.drawn_world.scenes",
        "dinov3seg_hf.evaluation.evaluator",
        "dinov3seg_hf.registration",
        "dinov3seg_hf.training.trainer",
    ]
)


class Script:
    """A running script, in one or several processes that know of each other as those of a launcher do.

    Args:
        arguments: The path of the script, or `"-m"` and a module, and its arguments.
        count: The number of processes.
    """

    def __init__(self, arguments: Sequence[object], count: int = 1):
        self.arguments = list(map(str, arguments))
        self.folder = tempfile.TemporaryDirectory()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        several = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        self.processes = []
        for rank in range(count):
            variables = {**several, "RANK": rank, "LOCAL_RANK": rank} if count > 1 else {}
            environment = {key: str(value) for key, value in variables.items()}
            log = Path(self.folder.name) / str(rank)
            process = SERVER.Process(target=_run, args=(self.arguments, environment, log, os.getcwd()))
            process.start()
            self.processes.append(process)

    def kill(self) -> None:
        """Sends SIGKILL to all processes."""
        for process in self.processes:
            process.kill()

    def wait(self, seconds: float = 900) -> subprocess.CompletedProcess:
        """Waits for the end. If one process fails, the others are ended, as a launcher does."""
        running = list(self.processes)
        code = 0
        while running and code == 0:
            ended = multiprocessing.connection.wait([process.sentinel for process in running], seconds)
            assert ended, f"{self.arguments} did not end within {seconds} s"
            for process in running:
                process.join(0)
            code = next((process.exitcode for process in running if process.exitcode), 0)
            running = [process for process in running if process.exitcode is None]
        for process in running:
            process.terminate()
            process.join()
        out, err = ("".join(path.read_text() for path in self._logs(end)) for end in (".out", ".err"))
        self.folder.cleanup()
        return subprocess.CompletedProcess(self.arguments, code, out, err)

    def _logs(self, end: str) -> list[Path]:
        return sorted(Path(self.folder.name).glob(f"*{end}"))


def _run(arguments: list[str], environment: dict[str, str], log: Path, folder: str) -> None:
    os.environ |= environment
    torch.set_num_threads(1)  # OMP_NUM_THREADS is read when torch is imported
    # tqdm's own lock is shared with all forks, and stays taken if one of them is killed while it draws
    tqdm.set_lock(threading.RLock())
    os.chdir(folder)
    for number, end in ((1, ".out"), (2, ".err")):
        os.dup2(os.open(f"{log}{end}", os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        sys.path.insert(0, str(Path(arguments[0]).parent))
        runpy.run_path(arguments[0], run_name="__main__")
