# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Measures `dinov3seg serve` under load: clients that ask without a pause, and whether an answer is lost.

    dinov3seg serve --port 8000 &
    python scripts/measure/service_load.py http://127.0.0.1:8000 --clients 32 --minutes 1

Each client sends drawn scenes with changing words, every second time the scene of before. A client that is told to come
back (429) waits as long as it is told. Prints the answers, the refusals, requests per second, and the median and the
95th percentile of the time from the first try to the answer. Exits with 1 if an answer is missing or wrong.
"""

import argparse
import io
import random
import sys
import threading
import time

from dinov3seg_hf.extras import exit_without_extra

exit_without_extra("dev", "requests")

import numpy as np
import requests
from PIL import Image
from tqdm import tqdm

from dinov3seg_hf.drawn_world.names import SEEN
from dinov3seg_hf.drawn_world.scenes import draw_scene
from dinov3seg_hf.model.image_input import read_label_map


def main() -> int:
    """Runs the clients."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--labels", type=int, default=6, help="words of a request")
    parser.add_argument("--size", type=int, default=96, help="side of the scenes in pixels")
    options = parser.parse_args()

    end = time.monotonic() + 60 * options.minutes
    seconds: list[float] = []
    problems: list[str] = []
    refusals: list[int] = []
    bar = tqdm(desc="Answers", unit="answer", file=sys.stderr)

    def client(seed: int) -> None:
        rng, content = random.Random(seed), b""
        session = requests.Session()
        for number in range(sys.maxsize):
            if time.monotonic() > end:
                return
            if number % 2 == 0:
                content = png_of(draw_scene(rng.randrange(10**6), "seen", options.size).image)
            data = {"labels": ", ".join(rng.sample(SEEN, options.labels)), "format": "png"}
            start = time.perf_counter()
            try:
                while True:
                    answer = session.post(
                        f"{options.address}/segment", files={"image": content}, data=data, timeout=300
                    )
                    if answer.status_code != 429:
                        break
                    refusals.append(1)
                    time.sleep(float(answer.headers["Retry-After"]))
                answer.raise_for_status()
                labels = read_label_map(answer.content).numpy()
                if labels.shape != (options.size, options.size) or not np.isin(labels, range(options.labels)).all():
                    problems.append(f"a label map of shape {labels.shape} with {np.unique(labels)}")
            except (requests.RequestException, ValueError) as error:
                problems.append(str(error))
            else:
                seconds.append(time.perf_counter() - start)
                bar.update()

    clients = [threading.Thread(target=client, args=(seed,)) for seed in range(options.clients)]
    for each in clients:
        each.start()
    for each in clients:
        each.join()
    bar.close()
    health = requests.get(f"{options.address}/health", timeout=60).json()
    if health["pending"]:
        problems.append(f"{health['pending']} requests are still in work")
    p50, p95 = np.percentile(seconds, [50, 95]) if seconds else (float("nan"),) * 2
    print(
        f"{len(seconds)} answers, {len(problems)} lost, {len(refusals)} refusals (429), "
        f"{len(seconds) / (60 * options.minutes):.1f} answers/s, p50 {p50:.2f} s, p95 {p95:.2f} s"
    )
    for problem in problems[:5]:
        print(f"lost: {problem}")
    return 1 if problems or not seconds else 0


def png_of(pixels: np.ndarray) -> bytes:
    """Encodes an image as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


if __name__ == "__main__":
    sys.exit(main())
