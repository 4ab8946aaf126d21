# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The Gradio demo, for `dinov3seg demo` and for a Space. Needs the extra `demo`: `pip install "dinov3seg_hf[demo]"`.

`engine` computes and stores segmentations; it does not use Gradio. `view` encodes a segmentation for the viewer in the
browser, `assets/viewer.js`. `page` builds the page, `endpoints` contains the functions of its API, `server` serves it.
This package is allowed to import every other subpackage except `training`, `hub` and `cli`.
"""
