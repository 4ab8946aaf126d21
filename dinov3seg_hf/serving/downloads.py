# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Reads the images that a request names by their addresses, from places that the operator of the service allows."""

import base64
import os
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit

from ..model.checks import quoted
from ..model.image_input import DOWNLOAD_TIMEOUT_SECONDS, ImageError
from .limits import Limits

# The token with which Label Studio gives out uploaded images.
TOKEN_VARIABLE = "LABEL_STUDIO_API_KEY"

# What an address may contain beside letters, digits and "_.-~"; "%" of what is quoted already.
URL_CHARACTERS = "%/:?#[]@!$&'()*+,;="


class Downloads:
    """Reads images from allowed places: a request must not make the service read other machines of its network.

    Args:
        places: Addresses; what begins with one of them may be read. An address without a host, such as
            `/data/upload/1.jpg`, belongs to the first one.
        limits: The largest size of a file.

    Raises:
        ValueError: If a place is not an HTTP(S) address.
    """

    def __init__(self, places: Sequence[str] = (), limits: Limits | None = None):
        for place in places:
            if urlsplit(place).scheme not in ("http", "https") or not urlsplit(place).netloc:
                raise ValueError(f"The place of images is {place!r}; expected an HTTP(S) address with a host.")
        self.places, self._limits = [f"{place.rstrip('/')}/" for place in places], limits or Limits()
        self._opener = urllib.request.build_opener(_NoRedirect)

    def read(self, address: Any) -> bytes:
        """Reads an image.

        Args:
            address: An address, or base64 in a `data:` address.

        Raises:
            ValueError: If the address is not allowed or cannot be read.
        """
        if not isinstance(address, str) or not address:
            raise ImageError(f"The image is {quoted(address)}; expected an address.")
        if address.startswith("data:"):
            return decode_base64(address)
        if address.startswith("/") and self.places:
            address = urljoin(self.places[0], address)
        place = next((place for place in self.places if address.startswith(place)), None)
        # ".." could lead out of a place, also as "%2e%2e"
        if place is None or ".." in unquote(urlsplit(address).path).replace("\\", "/").split("/"):
            raise ImageError(
                f"Images from {address[:200]!r} are not read; expected an address that begins with one of "
                f"{', '.join(self.places) or 'no place'}. Start the service with --images-from."
            )
        limit = self._limits.file_bytes
        try:
            # as a browser does with spaces and letters that are not ASCII
            encoded = quote(address, safe=URL_CHARACTERS)
            request = urllib.request.Request(encoded, headers={"User-Agent": "dinov3seg_hf"})
            if place == self.places[0] and (token := os.environ.get(TOKEN_VARIABLE)):
                request.add_header("Authorization", f"Token {token}")
            with self._opener.open(request, timeout=DOWNLOAD_TIMEOUT_SECONDS) as response:
                content = response.read(limit + 1)
        except (OSError, ValueError, HTTPException) as error:
            raise ImageError(f"The image {address[:200]!r} could not be downloaded ({error}).") from error
        if len(content) > limit:
            raise ImageError(f"The image {address[:200]!r} has more than {limit / 2**20:.0f} MiB. Shrink the image.")
        return content


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect could lead to another place, and take the token along."""

    def redirect_request(self, *_: Any) -> None:
        return None


def decode_base64(text: str) -> bytes:
    """Decodes base64, with or without `data:...;base64,` before it.

    Raises:
        ValueError: If the text is not base64.
    """
    try:
        return base64.b64decode(text.partition(",")[2] if text.startswith("data:") else text, validate=True)
    except ValueError as error:
        raise ImageError("The image is not valid base64. Encode the whole image file again.") from error
