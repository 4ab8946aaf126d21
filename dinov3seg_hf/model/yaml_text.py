# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Reads YAML of people: plain values only, and one kind of error."""

from typing import Any

import yaml


def load_yaml(text: str) -> Any:
    """Parses YAML without tags that create objects.

    Raises:
        ValueError: If the text is not YAML, has other tags, or is nested too deeply.
    """
    try:
        return yaml.safe_load(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # impossible dates are a ValueError
        raise ValueError(" ".join(str(error).split())) from error
