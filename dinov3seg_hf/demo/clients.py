# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Limits the uploads and the requests of one client, so that one client cannot keep the demo from the others.

A client is an address. Behind a proxy, uvicorn takes the address from `X-Forwarded-For` if it trusts the proxy: one on
the same machine, or one that the environment variable `FORWARDED_ALLOW_IPS` names. Of several addresses, it takes the
last one that it does not trust: a proxy adds the address that it sees behind those that the client claims. If it
trusts all ("*"), it takes the first one, which the client can make up.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

# Requests that make work or files. For a full queue, Gradio's clients expect 503.
LIMITED = {"/upload": 429, "/queue/join": 503, "/call/": 503, "/run/": 503, "/api/": 503, "/login": 429}
MAX_CLIENTS = 10_000

# Where the proxies of a Space are: networks that no visitor comes from.
PRIVATE_NETWORKS = "127.0.0.0/8,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,100.64.0.0/10,::1,fc00::/7"


class ClientRates:
    """Middleware that answers clients with too many requests itself.

    Args:
        app: The application.
        per_minute: Requests of a client per minute; half as many may come at once.
        clock: Returns seconds.
    """

    def __init__(self, app: ASGIApp, per_minute: int, clock: Callable[[], float] = time.monotonic):
        self.app, self.clock = app, clock
        self.rate, self.capacity = per_minute / 60, max(1.0, per_minute / 2)
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # requests left, and when they were counted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on, or refuses it with the time to wait."""
        if scope["type"] == "http" and scope["method"] == "POST":
            path = scope["path"].removeprefix(scope.get("root_path", "")).removeprefix("/gradio_api")
            status = next((status for start, status in LIMITED.items() if path.startswith(start)), None)
            wait = 0 if status is None else self._seconds_to_wait((scope.get("client") or ("", 0))[0])
            if status is not None and wait:
                detail = f"Too many requests from your address. Wait {wait} s."
                answer = JSONResponse({"detail": detail}, status, headers={"Retry-After": str(wait)})
                await answer(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _seconds_to_wait(self, client: str) -> int:
        """Counts a request; returns 0 if there is one left, else the seconds until there is."""
        now = self.clock()
        left, counted = self._left.pop(client, (self.capacity, now))
        left = min(self.capacity, left + (now - counted) * self.rate)
        wait = 0 if left >= 1 else math.ceil((1 - left) / self.rate)
        self._left[client] = (left - (wait == 0), now)
        if len(self._left) > MAX_CLIENTS:
            self._left.popitem(last=False)
        return wait
