# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""A limit of the bytes of a request, for the service and the demo."""

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyLimit:
    """Refuses requests whose body is larger than a limit, while they arrive: nothing is stored before."""

    def __init__(self, app: ASGIApp, max_bytes: int):
        self.app, self.max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, if it is small enough."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        told = dict(scope["headers"]).get(b"content-length", b"0")
        is_refused, num_bytes = not told.isdigit() or int(told) > self.max_bytes, 0

        async def limited() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > self.max_bytes:
                raise HTTPException(413, self._message)
            return message

        if is_refused:
            await JSONResponse({"detail": self._message}, 413)(scope, receive, send)
        else:
            await self.app(scope, limited, send)

    @property
    def _message(self) -> str:
        return f"The request is too large; expected at most {self.max_bytes / 2**20:.0f} MiB. Shrink the image."
