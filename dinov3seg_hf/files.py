# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Files that appear whole or not at all."""

import os
import uuid
from pathlib import Path


def write_whole(path: str | os.PathLike, content: bytes) -> None:
    """Writes a file beside its place and moves it there: nobody ever sees half of it.

    Raises:
        ValueError: If the path cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        try:
            with open(temporary, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise ValueError(
            f"{str(path)!r} cannot be written: {error.strerror}. Choose a path in a folder that can be."
        ) from error
