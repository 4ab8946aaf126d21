# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Refuses writes and deletions outside of a folder: a hostile path, or a fault in a case, must not cost anybody a file.

Python reports what it is about to do to audit hooks, which can forbid it. Libraries written in other languages do not.
"""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# The positions of the paths in the arguments of each event.
EVENTS = {
    "os.mkdir": (0,),
    "os.rmdir": (0,),
    "os.remove": (0,),
    "os.truncate": (0,),
    "os.rename": (0, 1),
    "os.link": (1,),
    "os.symlink": (1,),
    "os.chmod": (0,),
    "os.utime": (0,),
    "shutil.rmtree": (0,),
    "shutil.move": (0, 1),
    "shutil.copyfile": (1,),
    "shutil.copytree": (1,),
}
# Where the library `datasets` puts its locks; devices, which a write does not change; and where no file can be made.
OTHERS = (Path.home() / ".cache" / "huggingface", Path("/dev"), Path("/proc"))
DELETIONS = ("os.rmdir", "os.remove", "os.rename", "shutil.rmtree", "shutil.move", "os.truncate")

_active: list[Path] = []


class Escaped(BaseException):
    """Raised if a case would write outside of its folder. No handler of `Exception` hides it."""


@contextmanager
def confined(folder: Path) -> Iterator[None]:
    """Inside of the context, this process writes to `folder` only."""
    _install()
    _active.append(folder.resolve())
    try:
        yield
    finally:
        _active.pop()


_lock = threading.Lock()
_installed = False


def _install() -> None:
    global _installed
    with _lock:
        if not _installed:
            sys.addaudithook(_check)
            _installed = True


def _check(event: str, arguments: tuple) -> None:
    if not _active:
        return
    if event == "open":
        path, _, flags = arguments
        writes = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND))
        paths = (path,) if writes else ()
    else:
        paths = tuple(arguments[place] for place in EVENTS.get(event, ()))
        # relative to a folder that `rmtree` has opened, and was checked for
        if event in ("os.remove", "os.rmdir") and len(arguments) > 1 and arguments[1] not in (None, -1):
            paths = ()
    for path in paths:
        if isinstance(path, int) or path is None:
            continue
        place = Path(os.path.realpath(os.fsdecode(path)))
        others = () if event in DELETIONS else OTHERS
        # the link itself is removed or renamed, not its target
        if event in DELETIONS:
            place = Path(os.path.realpath(os.path.dirname(os.path.abspath(os.fsdecode(path))))) / place.name
        if not any(place.is_relative_to(allowed) for allowed in (_active[-1], *others)):
            raise Escaped(f"{event} {str(place)!r}, outside of {str(_active[-1])!r}")
