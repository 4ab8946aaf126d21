# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Names of files that one room writes and another reads."""

CONVERSION_REPORT = "conversion_report.json"  # beside converted weights
RESULTS = "results.json"  # of an evaluation
RUN_DESCRIPTION = "run.json"  # in the folder of a training run, and beside the model that it trained
TRAINED_MODEL = "model"  # the folder of that model, in the folder of the run
TRAINING_VOCABULARY = "training_vocabulary.json"  # beside a trained model: which names it has seen
