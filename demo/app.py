# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The Space's page: `dinov3seg demo`, told by variables of the Space instead of arguments.

DINOV3SEG_MODEL (folder or Hub id; the embedded checkpoint unless set), DINOV3SEG_EXAMPLES (folder of images).
"""

import os

from dinov3seg_hf.about import EMBEDDED
from dinov3seg_hf.demo.server import serve

if __name__ == "__main__":
    serve(os.environ.get("DINOV3SEG_MODEL", EMBEDDED), examples=os.environ.get("DINOV3SEG_EXAMPLES"))
