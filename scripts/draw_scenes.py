# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Draws a scene of the drawn world, to try the embedded checkpoint, and prints the names in the scene.

python scripts/draw_scenes.py --seed 61 --size 96 144 --objects 4 5 --output examples/scene.png
python scripts/draw_scenes.py --seed 7 --split unseen --output scene.png      # only names held out from training
"""

import argparse
from pathlib import Path

from PIL import Image

from dinov3seg_hf.drawn_world.names import SPLITS, UNSEEN
from dinov3seg_hf.drawn_world.scenes import draw_scene


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--split", choices=sorted(SPLITS), default="all")
    parser.add_argument("--size", type=int, nargs=2, default=(96, 96), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--objects", type=int, nargs=2, metavar=("FEWEST", "MOST"))
    parser.add_argument("--output", type=Path, required=True, help="image file")
    args = parser.parse_args()
    num_objects = None if args.objects is None else tuple(args.objects)
    scene = draw_scene(args.seed, args.split, tuple(args.size), num_objects=num_objects)
    Image.fromarray(scene.image).save(args.output)
    for name in scene.names:
        print(name + ("   (not seen in training)" if name in UNSEEN else ""))


if __name__ == "__main__":
    main()
