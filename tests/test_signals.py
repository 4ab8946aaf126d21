# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Signals end calls that never return, and leave others alone."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from dinov3seg_hf.signals import blocked_calls_end, terminated_like_ctrl_c

# a call in C that takes minutes, lets other threads run, and never looks for signals
BLOCKED = """
import hashlib, signal
from dinov3seg_hf.signals import blocked_calls_end
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.default_int_handler)
with blocked_calls_end(130, "interrupted\\n", patience=0.2):
    print("blocked", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**30)
"""


@pytest.mark.parametrize("number, is_read", [(signal.SIGINT, True), (signal.SIGTERM, True), (signal.SIGTERM, False)])
def test_a_blocked_call_ends(number, is_read):
    with subprocess.Popen([sys.executable, "-c", BLOCKED], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == b"blocked\n"
        if not is_read:
            process.stderr.close()
        time.sleep(0.2)
        process.send_signal(number)
        try:
            assert process.wait(20) == 130
        finally:
            process.kill()
        assert not is_read or process.stderr.read() == b"interrupted\n"


def test_a_signal_before_the_block_leaves_nothing_behind(monkeypatch):
    set_wakeup_fd = signal.set_wakeup_fd

    def interrupted(descriptor):
        earlier = set_wakeup_fd(descriptor)
        if descriptor != -1:
            raise KeyboardInterrupt
        return earlier

    monkeypatch.setattr(signal, "set_wakeup_fd", interrupted)
    with pytest.raises(KeyboardInterrupt), blocked_calls_end(3, "not shown"):
        pass
    assert set_wakeup_fd(-1) == -1


def test_a_call_that_returns_is_interrupted_as_ever():
    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.raises(KeyboardInterrupt), terminated_like_ctrl_c(), blocked_calls_end(3, "not shown", patience=60):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    with blocked_calls_end(3, "not shown", patience=0):
        pass
    assert signal.set_wakeup_fd(-1) == -1
    assert len(os.listdir("/proc/self/fd")) == descriptors


LONE = """
import sys
from dinov3seg_hf.distributed import PATIENCE, start_processes
from dinov3seg_hf.signals import terminated_like_ctrl_c
with terminated_like_ctrl_c():
    import accelerate
    print("starts", flush=True)
    start_processes(PATIENCE, cpu=True)
"""


@pytest.mark.multiprocess
def test_a_process_that_waits_for_others_to_start_can_be_stopped():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
    environment = os.environ | place | {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}
    command = [sys.executable, "-c", LONE]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == b"starts\n"
        time.sleep(3)
        process.send_signal(signal.SIGTERM)
        try:
            assert process.wait(30) == 130
        finally:
            process.kill()
        assert process.stderr.read().endswith(b"interrupted; run the same command again\n")
