# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Compares time and memory of the metric with the usual implementation (histograms; all label maps are kept).

    python benchmarks/metric.py                                   # 512 x 512, 150 classes, 50 images
    python benchmarks/metric.py --size 640 480 --classes 847

Both implementations compute the same mean IoU for the same random label maps, which have large regions like real
predictions. Each implementation runs in a separate process, so its peak memory is measured separately. Times are CPU
times, so other processes on the machine have little influence.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import numpy as np


def label_maps(num_images: int, size: tuple[int, int], num_classes: int):
    """Yields pairs of prediction and ground truth: blocks of 32 pixels, a fifth of them wrong, some ignored (65535)."""
    rng = np.random.default_rng(0)
    blocks = [-(-side // 32) for side in size]
    for _ in range(num_images):
        truth = rng.integers(0, num_classes, blocks)
        predicted = np.where(rng.random(blocks) < 0.2, rng.integers(0, num_classes, blocks), truth)
        truth = np.where(rng.random(blocks) < 0.05, 65535, truth)
        maps = (np.kron(array, np.ones((32, 32), np.int64))[: size[0], : size[1]] for array in (predicted, truth))
        yield tuple(np.ascontiguousarray(array.astype(np.int32)) for array in maps)


def usual(pairs, num_classes: int) -> float:
    """Computes the mean IoU like common metrics: gathers all maps, then makes three histograms per image."""
    gathered = list(pairs)
    totals = np.zeros((3, num_classes))
    for predicted, truth in gathered:
        valid = truth != 65535
        predicted, truth = predicted[valid], truth[valid]
        for row, values in enumerate((predicted[predicted == truth], predicted, truth)):
            totals[row] += np.histogram(values, bins=num_classes, range=(0, num_classes - 1))[0]
    intersection, predicted, truth = totals
    union = predicted + truth - intersection
    return float(np.mean(intersection[truth > 0] / union[truth > 0]))


def ours(pairs, num_classes: int) -> float:
    from dinov3seg_hf.metrics.mean_iou import MeanIoU

    metric = MeanIoU(num_labels=num_classes, ignore_index=65535)
    for predicted, truth in pairs:
        metric.add(prediction=predicted, reference=truth)
    return metric.compute()["mean_iou"]


FORMULATIONS = {"usual": usual, "ours": ours}


def measure(name: str, num_images: int, size: tuple[int, int], num_classes: int) -> dict:
    """Measures the CPU time of the metric alone, and its peak memory above the memory of the libraries."""
    # imports the libraries before the measurement
    FORMULATIONS[name](label_maps(1, (32, 32), num_classes), num_classes)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    drawing = 0.0

    def drawn():
        nonlocal drawing
        pairs = label_maps(num_images, size, num_classes)
        while True:
            start = time.process_time()
            pair = next(pairs, None)
            drawing += time.process_time() - start
            if pair is None:
                return
            yield pair

    start = time.process_time()
    score = FORMULATIONS[name](drawn(), num_classes)
    seconds = time.process_time() - start - drawing
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"milliseconds": 1000 * seconds / num_images, "peak_mib": peak / 1024, "mean_iou": score}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--size", type=int, nargs=2, default=(512, 512), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--classes", type=int, default=150)
    parser.add_argument("--formulation", choices=FORMULATIONS, help=argparse.SUPPRESS)  # for the child process
    args = parser.parse_args()
    size = tuple(args.size)
    if args.formulation:
        print(json.dumps(measure(args.formulation, args.images, size, args.classes)))
        return

    from dinov3seg_hf.extras import exit_without_extra  # not above, for the memory of the child processes

    exit_without_extra("train", "datasets", "evaluate")
    results = {}
    for name in FORMULATIONS:
        command = [sys.executable, __file__, *sys.argv[1:], "--formulation", name]
        results[name] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    if abs(results["usual"]["mean_iou"] - results["ours"]["mean_iou"]) > 1e-12:
        raise SystemExit(f"The mean IoUs of the two implementations differ: {results}")
    score = results["ours"]["mean_iou"]
    print(f"{args.images} images of {size[0]} x {size[1]}, {args.classes} classes, mean IoU {score:.4f}")
    print(f"{'':8}{'ms per image':>12}{'peak MiB':>12}")
    for name, result in results.items():
        print(f"{name:8}{result['milliseconds']:12.2f}{result['peak_mib']:12.1f}")
    print(f"{results['usual']['milliseconds'] / results['ours']['milliseconds']:.1f} times as fast")


if __name__ == "__main__":
    main()
