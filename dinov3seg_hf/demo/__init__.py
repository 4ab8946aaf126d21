# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The Gradio demo, for `dinov3seg demo` and for a Space. Needs the extra `demo`: `pip install "dinov3seg_hf[demo]"`.

`engine` computes and remembers, without Gradio; `view` and `assets/viewer.js` are the two ends of what it is sent;
`page` is the page, `endpoints` its API, `server` serves it. May import every room but `training`, `hub` and `cli`.
"""
