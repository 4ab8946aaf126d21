# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""What a writer has done for the images so far, one line of JSON each, until the file of all images is complete.

By default, the lines are in a temporary file that nobody sees. A journal that is kept is the file `<output>.journal`:
it survives the process, and its first line says what the results depend on, so that the same run can go on with it.
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NoReturn

from ..model.files import disk_errors_as_value_errors, try_lock

HEAD = "dinov3seg_hf journal"
START = f'{{"{HEAD}": '.encode()


class Journal:
    """A list of entries on disk; in memory are their names and places.

    Args:
        output: The file or folder that the entries are for. Nothing is written before the first entry.
    """

    def __init__(self, output: Path):
        self.path = output.with_name(f"{output.name}.journal")
        self._places: dict[str, int] = {}  # by the names of images
        self._file: BinaryIO | None = None
        self._head: dict[str, Any] | None = None  # of a journal that is kept
        self._sources: Mapping[str, Any] = {}
        self._is_new = self._is_new_folder = self._is_damaged = False
        self.num_left_out = 0  # images of an interrupted run

    def __len__(self) -> int:
        return len(self._places)

    @property
    def names(self) -> list[str]:
        """The names of the images."""
        return list(self._places)

    @property
    def stems(self) -> list[str]:
        """The names of the images without their endings."""
        return [str(PurePosixPath(name).with_suffix("")) for name in self._places]

    def keep(
        self, run: Mapping[str, Any], sources: Mapping[str, Any], is_there: Callable[[str], bool], begin_again: bool
    ) -> None:
        """Keeps the journal beside the output from now on, and goes on with the one of an interrupted run.

        Args:
            run: What the results depend on, as values of JSON.
            sources: The names of the images of this run, and what identifies each image, as a value of JSON; `None`
                identifies none. Entries of other images are left out.
            is_there: Whether other files of an image exist that belong to its entry, by name.
            begin_again: Whether to leave the entries of an interrupted run out.

        Raises:
            ValueError: If the file is no journal, the interrupted run was another one, or the file cannot be read, or
                is in use.
        """
        self._head = {HEAD: 1, "run": json.loads(json.dumps(run))}  # in JSON, tuples are lists
        self._sources = sources
        if self.path.exists():
            try:
                self._open()
                self._refuse_other_files()
                if not begin_again:
                    self._go_on(is_there)
            except BaseException:
                self.close()
                raise

    def _refuse_other_files(self) -> None:
        with self._reader() as reader:
            if not START.startswith(reader.read(len(START))):  # which may not be finished
                raise ValueError(
                    f"{str(self.path)!r} is no journal of an interrupted run. Move it, or choose other names."
                )

    def _go_on(self, is_there: Callable[[str], bool]) -> None:
        """Reads the entries of an interrupted run."""
        sources = self._sources
        names: set[str] = set()
        is_known = is_same = False  # whether any image of an entry has a source, and that of this run
        for place, entry in self._lines():
            if place == 0:
                self._check_head(entry)
                continue
            images = entry["images"]
            names.update(images)
            same = [source is not None and sources.get(name) == source for name, source in images.items()]
            is_same = is_same or any(same)
            is_known = is_known or any(source is not None for source in images.values())
            if all(same) and all(is_there(name) for name in images):
                self._places.update(dict.fromkeys(images, place))
        self.num_left_out = len(names - self._places.keys())
        # images of other folders can have the same names
        if names and ((is_known and not is_same) or names.isdisjoint(sources)):
            self._refuse(["folder of images (or all of its images have changed)"])

    def _check_head(self, found: dict[str, Any]) -> None:
        assert self._head is not None
        before, now = found["run"], self._head["run"]
        if changed := [key for key in {**now, **before} if before.get(key) != now.get(key)]:
            self._refuse(changed)

    def _refuse(self, changed: Sequence[str]) -> NoReturn:
        raise ValueError(
            f"{str(self.path)!r} has the annotations of an interrupted run with another {' and '.join(changed)}. Run "
            "the same command as before to finish it, begin again with --overwrite, or remove the file."
        )

    def _lines(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields each line with its place; removes what a killed process has not finished."""
        assert self._file is not None
        end = 0
        with self._reader() as reader:
            for line in reader:
                if not line.endswith(b"\n"):  # the next line would be added to it
                    break
                try:
                    content = json.loads(line)
                except ValueError:
                    break
                yield end, content
                end += len(line)
        self._file.truncate(end)

    def _reader(self) -> BinaryIO:
        assert self._file is not None
        self._file.seek(0)  # which the reader shares
        return os.fdopen(os.dup(self._file.fileno()), "rb")

    def begin(self) -> None:
        """Opens a journal that is kept, so that two runs do not write into one.

        Raises:
            ValueError: If the file cannot be written, is in use, or was written after `keep` has looked for it.
        """
        if self._head is None or self._places or self._is_new:
            return
        if self._file is None:
            self._open()
            self._refuse_late_entries()
        assert self._file is not None
        self._is_new = True
        try:
            with disk_errors_as_value_errors(repr(str(self.path))):
                self._file.truncate(0)
                self._append(self._head)
        except BaseException:
            self.remove()
            raise

    def _refuse_late_entries(self) -> None:
        """Checks that a file that did not exist before is new: models are loaded after `keep`."""
        assert self._file is not None
        if os.fstat(self._file.fileno()).st_size:
            self.close()
            raise ValueError(
                f"{str(self.path)!r} was written in the meantime, and its process has stopped. Run the same command "
                "again to go on with it."
            )

    def _open(self) -> None:
        while self._file is None:
            with disk_errors_as_value_errors(repr(str(self.path))):
                if not self.path.parent.exists():
                    self.path.parent.mkdir(parents=True, exist_ok=True)
                    self._is_new_folder = True
                descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
                # unbuffered: what is written survives the process, and a full disk is an error at once
                self._file = os.fdopen(descriptor, "r+b", buffering=0)
            if not try_lock(descriptor):
                self.close()
                raise ValueError(
                    f"{str(self.path)!r} is in use, so another process writes these annotations. Wait until it has "
                    "ended, or choose another name."
                )
            if not self.path.exists():  # removed by another process before it was locked
                self.close()

    def add(self, names: Sequence[str], content: Any) -> None:
        """Adds the entry of an image, or of several ones, whole or not at all.

        Raises:
            OSError: If the disk is full or not writable.
            ValueError: If it was full before, and has a part of an entry.
        """
        self.check()
        self.begin()
        if self._file is None:
            # deleted as soon as it is closed, even if the process is killed
            self._file = tempfile.TemporaryFile(dir=self.path.parent, buffering=0)
        place = self._append({"images": {name: self._sources.get(name) for name in names}, "content": content})
        self._places.update(dict.fromkeys(names, place))

    def check(self) -> None:
        """Checks that all entries are whole.

        Raises:
            ValueError: If the disk was full, and has a part of an entry.
        """
        if self._is_damaged:
            raise ValueError(f"{str(self.path)!r} was not written, because its disk was full. Choose another disk.")

    def _append(self, content: Any) -> int:
        assert self._file is not None
        rest = memoryview(json.dumps(content).encode() + b"\n")
        place = self._file.seek(0, os.SEEK_END)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except BaseException:
            try:
                self._file.truncate(place)
            except OSError:
                self._is_damaged = True
            raise
        return place

    def __iter__(self) -> Iterator[Any]:
        """Yields the contents of the entries, one at a time from the disk, in the order in which they were added."""
        if not self._places:
            return
        with self._reader() as reader:
            for place in dict.fromkeys(self._places.values()):
                reader.seek(place)
                yield json.loads(reader.readline())["content"]

    def close(self) -> None:
        """Closes the file; a temporary one is gone then, and one that has got no entry is removed."""
        self._close(removes=self._is_new and not self._places)

    def remove(self) -> None:
        """Closes and removes the file."""
        self._close(removes=self._head is not None)

    def _close(self, removes: bool) -> None:
        if self._file is None:
            return
        if removes and os.name != "nt":  # before the lock ends with the file; Windows removes closed files only
            self._unlink()
        with contextlib.suppress(OSError):  # a full disk was reported before
            self._file.close()
        self._file, self._is_new = None, False
        if removes and os.name == "nt":
            self._unlink()

    def _unlink(self) -> None:
        with contextlib.suppress(OSError):
            self.path.unlink()
        if self._is_new_folder:
            with contextlib.suppress(OSError):  # not empty
                self.path.parent.rmdir()
