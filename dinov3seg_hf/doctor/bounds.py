# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The bounds of what is found, for the help of the command as well."""

SIMILARITY = 0.95  # cosine of the local halves above which two classes are reported
MIN_IMAGES = 5  # fewer images say nothing about a class
