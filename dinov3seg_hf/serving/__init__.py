# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The HTTP service `dinov3seg serve`, and what it shares with the demo. The service needs the extra `serve`.

`words`, `limits`, `time_limit`, `memory`, `body_limit` and `allocator` are shared with the demo. `engine` computes in
batches and stores features, `waiting` waits for its answers. `api` has the endpoints of the service, `label_studio` and
`x_anylabeling` those of annotation tools, `docs_page` the page that describes them, `server` runs it.
This package is allowed to import every subpackage except `training`, `hub`, `demo` and `cli`.
"""
