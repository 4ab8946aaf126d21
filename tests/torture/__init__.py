# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Commands are killed at random moments and given full disks, and run again: the result must be that of one whole run.

    python -m tests.torture --seconds 600              # as `make torture`; --seed and --first repeat an attempt
    python -m tests.torture label evaluate --attempts 4

`scenarios` has the commands, `processes` starts and stops them, `attempts` judges what came of it.
"""
