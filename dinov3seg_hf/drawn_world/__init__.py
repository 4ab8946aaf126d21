# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The world that the embedded checkpoint knows: its names, its scenes, its tokenizer, and which seeds are for what.

May import `model`.
"""
