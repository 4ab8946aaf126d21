# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""A process whose partner in a run has ended reports it in one line."""

import os
import signal
import socket
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from dinov3seg_hf.cli import console
from dinov3seg_hf.cli.console import EXIT_ERROR, EXIT_INTERRUPTED, Parser, execute
from dinov3seg_hf.process_errors import OtherProcessError

LOST = RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:10118. GLHF!")


def command_that_raises(error):
    def run(options):
        raise error

    return SimpleNamespace(make_parser=lambda prog: Parser(prog=prog), run=run, INTERRUPTED="interrupted; go on")


# the first process has the store of keys, and ends; the other one waits for a key
STORE = """
import os, sys
import torch.distributed
from dinov3seg_hf.process_errors import is_of_another_process
try:
    torch.distributed.init_process_group("gloo")  # the first process may be gone before the second one is ready
    if os.environ["RANK"] == "0":
        os._exit(3)
    torch.distributed.distributed_c10d._get_default_store().get("a key")
except RuntimeError as error:
    sys.exit(4 if is_of_another_process(error) else str(error))
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.fixture(autouse=True)
def short_patience(monkeypatch):
    monkeypatch.setattr(console, "SIGNAL_SECONDS", 0.01)


@pytest.mark.parametrize("error", [LOST, OtherProcessError("Process 0 failed: OSError: full")], ids=["lost", "failed"])
def test_the_end_of_another_process_is_one_line(error, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert execute(command_that_raises(error), "dinov3seg evaluate", []) == EXIT_ERROR
    (line,) = capsys.readouterr().err.splitlines()
    # of several processes, only the first one prints: it gives the reason of another one, if it knows it
    reason = "Another process of this run has ended. The launcher says which one" if error is LOST else str(error)
    assert line.startswith(f"dinov3seg evaluate: error: {reason}")


@pytest.mark.multiprocess
def test_the_end_of_the_process_that_has_the_store_is_recognized():
    environment = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    command = [sys.executable, "-c", STORE]
    first, second = (subprocess.Popen(command, env=environment | {"RANK": rank}) for rank in "01")
    assert (first.wait(60), second.wait(60)) == (3, 4)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_ended_another_process_first_is_waited_for(number, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(console, "SIGNAL_SECONDS", 30)
    if number == signal.SIGINT:  # ignored in jobs in the background
        earlier = signal.signal(number, signal.default_int_handler)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), number))
    timer.start()
    try:
        assert execute(command_that_raises(LOST), "dinov3seg evaluate", []) == EXIT_INTERRUPTED
    finally:
        timer.join()
        if number == signal.SIGINT:
            signal.signal(number, earlier)
    assert capsys.readouterr().err == "dinov3seg evaluate: interrupted; go on\n"


@pytest.mark.parametrize("error, processes", [(LOST, "1"), (RuntimeError("a fault of ours"), "2")])
def test_other_errors_stay_visible(error, processes, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", processes)
    with pytest.raises(RuntimeError, match=str(error)[-10:].rstrip("!")):
        execute(command_that_raises(error), "dinov3seg evaluate", [])
