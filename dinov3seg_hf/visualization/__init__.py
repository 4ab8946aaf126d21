# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Label maps as people and programs want them: colors, overlays, legends, tables, files.

May import `model`.
"""
