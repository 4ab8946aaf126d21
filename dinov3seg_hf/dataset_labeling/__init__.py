# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Labels whole data sets, in shards that several processes share. Needs the extra `train`.

`shards` says which rows belong to a shard and which process labels it, `folder` what is done, `labeler` does the work.
This package is allowed to import `model`, `visualization`, `data` and `annotations`.
"""

from .labeler import LabelingResult, label_dataset
from .shards import Shard, ShardedRows

__all__ = ["LabelingResult", "Shard", "ShardedRows", "label_dataset"]
