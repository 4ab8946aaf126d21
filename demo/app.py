# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Serves the page of `dinov3seg demo` in a Space, with environment variables instead of arguments.

DINOV3SEG_MODEL: folder or Hub id of the model; default: the embedded checkpoint.
DINOV3SEG_EXAMPLES: folder of example images; default: drawn scenes if the model knows no other words, else none.
"""

import os

from dinov3seg_hf.extras import exit_without_extra

exit_without_extra("demo", "gradio")

from dinov3seg_hf.about import EMBEDDED
from dinov3seg_hf.demo.clients import PRIVATE_NETWORKS
from dinov3seg_hf.demo.server import serve

if __name__ == "__main__":
    if "SPACE_ID" in os.environ:  # behind the proxy of the Hub, which tells the addresses of the clients
        os.environ.setdefault("FORWARDED_ALLOW_IPS", PRIVATE_NETWORKS)
    serve(os.environ.get("DINOV3SEG_MODEL", EMBEDDED), examples=os.environ.get("DINOV3SEG_EXAMPLES"))
