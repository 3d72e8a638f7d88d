"""Processes that are killed at random moments while they write checkpoints, and what each leaves."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from dstbench.runner.trial import tensor_files
from dstbench.runner.trial.running import CHECKPOINT, PREVIOUS


def write(folder: Path, number: int) -> None:
    """A checkpoint of 4 MB, of one number."""
    content = {"number": number, "weights": [torch.full((250_000,), float(number)) for _ in range(4)]}
    tensor_files.write(content, folder / CHECKPOINT, previous=folder / PREVIOUS)


def write_for_ever(folder: Path, number: int) -> None:
    """One checkpoint after the other, each of the next number."""
    while True:
        number += 1
        write(folder, number)


def last_whole(folder: Path) -> int:
    """The number of the checkpoint that a trial would go on from. Raises where a file isn't as it was written."""
    for name in (CHECKPOINT, PREVIOUS):
        if (folder / name).exists():
            content = tensor_files.read(folder / name)
            assert all(bool((weights == content["number"]).all()) for weights in content["weights"])
            return int(content["number"])
    raise AssertionError("no checkpoint is left")


def main(folder: Path, kills: int) -> None:
    """Print how many of the kills left a file that was being written, and how many checkpoints were."""
    torch.set_num_threads(1)
    draw, number, torn = random.Random(0), 1, 0
    start = time.monotonic()
    write(folder, number)
    longest = 3 * (time.monotonic() - start)
    for _ in range(kills):
        child = os.fork()
        if child == 0:
            write_for_ever(folder, number)
        time.sleep(draw.uniform(0.0, longest))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        torn += tensor_files.fresh(folder / CHECKPOINT).exists()
        found = last_whole(folder)
        assert found >= number, f"{found} after {number}"
        number = found
    print(torn, number)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
