# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Limits the uploads and the requests of one client, so that one client cannot keep the demo from the others.

A client is an address, or a network of IPv6 (/64), because one client can have all of its addresses. Behind a proxy,
uvicorn takes the address from `X-Forwarded-For` if it trusts the proxy: one on the same machine, or one that the
environment variable `FORWARDED_ALLOW_IPS` names. Of several addresses, it takes the last one that it does not trust: a
proxy adds the address that it sees behind those that the client claims. If it trusts all ("*"), it takes the first one,
which the client can make up.
"""

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable

from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..serving.body_limit import BodyLimit
from ..serving.limits import Limits
from .uploads import MAX_AGE_SECONDS

# Requests that make work or files. For a full queue, Gradio's clients expect 503.
LIMITED = {"/upload": 429, "/queue/join": 503, "/call/": 503, "/run/": 503, "/api/": 503, "/login": 429}
# What our page never asks for. Gradio stores the bodies in the temporary folder of the system, and leaves them there.
UNUSED = ("/process_recording", "/component_server")
MAX_CLIENTS = 10_000

# Where the proxies of a Space are: networks that no visitor comes from.
PRIVATE_NETWORKS = "127.0.0.0/8,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,100.64.0.0/10,::1,fc00::/7"


# The share of all uploads that one client may send at once, and again in the hour for which uploads are kept.
UPLOAD_SHARE = 1 / 4
# Words and options, or what a form has more than its image. Waiting requests stay in memory, 40 of them and more.
FORM_BYTES = 2**20


def middleware_of(limits: Limits) -> list[Middleware]:
    """Returns the middleware that holds clients to the limits."""
    return [
        Middleware(RequestLimit, limits.file_bytes + FORM_BYTES),
        Middleware(
            ClientRates,
            limits.requests_per_minute,
            upload_bytes=int(limits.upload_bytes * UPLOAD_SHARE),
            last_bytes=limits.file_bytes + FORM_BYTES,
        ),
    ]


class RequestLimit(BodyLimit):
    """Middleware that refuses requests that are too large: only an upload has the size of an image."""

    def limit_of(self, scope: Scope) -> tuple[int, str]:
        if path_of(scope).startswith("/upload"):
            return super().limit_of(scope)
        return FORM_BYTES, "Use fewer words, and upload images."


def path_of(scope: Scope) -> str:
    """Returns the path of a request as `LIMITED` has it."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", "")).removeprefix("/gradio_api")


class Allowance:
    """What each client may still use: it grows with time, up to a maximum.

    Args:
        capacity: The maximum.
        rate: The growth per second.
        clock: Returns seconds.
    """

    def __init__(self, capacity: float, rate: float, clock: Callable[[], float]):
        self.capacity, self.rate, self.clock = capacity, rate, clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # what is left, and when it was counted

    def __len__(self) -> int:
        return len(self._left)

    def seconds_until(self, client: str, amount: float) -> int:
        """Returns 0 if the client may use an amount now, else the seconds until it may."""
        left = self.use(client, 0)
        return 0 if left >= amount else math.ceil((amount - left) / self.rate)

    def use(self, client: str, amount: float) -> float:
        """Uses an amount; returns what is left, below 0 if it was too much."""
        now = self.clock()
        left, counted = self._left.pop(client, (self.capacity, now))
        left = min(self.capacity, left + (now - counted) * self.rate) - amount
        self._left[client] = (left, now)
        if len(self._left) > MAX_CLIENTS:
            self._left.popitem(last=False)
        return left


def client_of(address: str) -> str:
    """Returns the client that has an address: the address itself, or the network of an address of IPv6."""
    try:
        number = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:  # of a socket without addresses
        return address
    if isinstance(number, ipaddress.IPv4Address):
        return address
    if number.ipv4_mapped is not None:
        return str(number.ipv4_mapped)
    return str(ipaddress.ip_network((int(number), 64), strict=False))


class ClientRates:
    """Middleware that answers clients with too many requests or uploads itself.

    Args:
        app: The application.
        per_minute: Requests of a client per minute; half as many may come at once.
        clock: Returns seconds.
        upload_bytes: Bytes of uploads of a client at once, and again per hour. The last one may exceed them.
        last_bytes: By how much. Uploads that arrive together are all begun before their bytes are counted.
    """

    def __init__(
        self,
        app: ASGIApp,
        per_minute: int,
        clock: Callable[[], float] = time.monotonic,
        upload_bytes: float = 2**29,
        last_bytes: float = 2**25,
    ):
        self.app, self.last_bytes = app, last_bytes
        self.requests = Allowance(max(1.0, per_minute / 2), per_minute / 60, clock)
        self.bytes = Allowance(upload_bytes, upload_bytes / MAX_AGE_SECONDS, clock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on, or refuses it with the time to wait."""
        if scope["type"] == "http" and scope["method"] == "POST":
            path = path_of(scope)
            status = next((status for start, status in LIMITED.items() if path.startswith(start)), None)
            client = client_of((scope.get("client") or ("", 0))[0])
            if path.startswith(UNUSED):
                await JSONResponse({"detail": "Not Found"}, 404)(scope, receive, send)
                return
            if status is not None:
                detail, wait = "Too many requests", self.requests.seconds_until(client, 1)
                if path.startswith("/upload"):
                    receive = self._counted(receive, client)
                    if not wait:
                        detail, wait = "Too many bytes of uploads", self.bytes.seconds_until(client, 1)
                if wait:
                    detail = f"{detail} from your address. Wait {wait} s."
                    answer = JSONResponse({"detail": detail}, status, headers={"Retry-After": str(wait)})
                    await answer(scope, receive, send)
                    return
                self.requests.use(client, 1)
        await self.app(scope, receive, send)

    def _counted(self, receive: Receive, client: str) -> Receive:
        async def counted() -> Message:
            message = await receive()
            if self.bytes.use(client, len(message.get("body", b""))) < -self.last_bytes:
                wait = self.bytes.seconds_until(client, 1)
                detail = f"Too many bytes of uploads from your address. Wait {wait} s."
                raise HTTPException(429, detail, {"Retry-After": str(wait)})
            return message

        return counted
