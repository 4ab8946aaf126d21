# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Waits for answers in the endpoints: as long as a request may take, and as long as its client waits."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request, Response

from .engine import PendingAnswer
from .time_limit import time_limit_error

# What nobody receives, by the number that nginx has for it.
CLIENT_IS_GONE = 499

Result = TypeVar("Result")


async def answer_of(pending: PendingAnswer, limit: float) -> Any:
    """Returns an answer of the engine. If the waiting is cancelled, the engine does not compute it.

    Args:
        pending: What `SegmentationEngine.submit` returns.
        limit: How long to wait, in seconds.

    Raises:
        TimeLimitError: If it takes longer.
    """
    try:
        return await asyncio.wait_for(asyncio.wrap_future(pending), limit)
    except asyncio.TimeoutError as error:  # another class in Python 3.10
        has_begun = pending.has_begun
        if pending.done() and not pending.cancelled():  # at the last moment, or the error of the request itself
            return pending.result()
        pending.cancel()
        raise time_limit_error(limit, has_begun=has_begun) from error


async def while_connected(request: Request, work: Coroutine[Any, Any, Result]) -> Result | Response:
    """Returns the result of work, which is cancelled if the client closes the connection.

    Args:
        request: The request, whose body has been read.
        work: The work.

    Returns:
        The result; an empty response if nobody waits for it.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnection(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else Response(status_code=CLIENT_IS_GONE)
    finally:
        task.cancel()
        gone.cancel()


async def _disconnection(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
