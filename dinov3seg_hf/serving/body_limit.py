# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""A limit of the bytes of a request, and of the encodings of forms, for the service and the demo."""

import re

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CHARSET = re.compile(rb"charset[^;]*")
UTF_8 = re.compile(rb"charset\s*=\s*\"?utf-?8\"?\s*")


class BodyLimit:
    """Refuses requests whose body is larger than a limit, while they arrive: nothing is stored before.

    Forms must be UTF-8. A client could name any encoding of Python, such as "punycode": its decoder takes a time that
    grows with the square of the length, and nobody else is answered meanwhile.
    """

    def __init__(self, app: ASGIApp, max_bytes: int):
        self.app, self.max_bytes = app, max_bytes

    def limit_of(self, scope: Scope) -> tuple[int, str]:
        """Returns the maximum number of bytes of a request, and the remedy."""
        return self.max_bytes, "Shrink the image."

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, if it is small enough."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        max_bytes, remedy = self.limit_of(scope)
        message = f"The request is too large; expected at most {max_bytes / 2**20:.0f} MiB. {remedy}"
        told = dict(scope["headers"]).get(b"content-length", b"0")
        is_refused, num_bytes = not told.isdigit() or int(told) > max_bytes, 0

        async def limited() -> Message:
            nonlocal num_bytes
            part = await receive()
            num_bytes += len(part.get("body", b""))
            if num_bytes > max_bytes:
                raise HTTPException(413, message)
            return part

        if is_refused:
            await JSONResponse({"detail": message}, 413)(scope, receive, send)
        elif not is_utf_8(scope):
            message = "The form has another charset than UTF-8. Leave out the charset in its Content-Type."
            await JSONResponse({"detail": message}, 415)(scope, receive, send)
        else:
            await self.app(scope, limited, send)


def is_utf_8(scope: Scope) -> bool:
    """Whether a request has no form, or one that is UTF-8, the default."""
    kinds = [value.lower() for name, value in scope["headers"] if name == b"content-type"]
    named = [charset for kind in kinds if b"multipart" in kind for charset in CHARSET.findall(kind)]
    return all(UTF_8.fullmatch(charset) for charset in named)
