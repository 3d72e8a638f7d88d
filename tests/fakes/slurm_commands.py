"""SLURM's commands without a SLURM: jobs are processes of this machine, all of which start at once.

For tests of what our side does; what a real one does is tested on a real one. Called as the program that it stands
for, with a folder for its state in ``FAKE_SLURM``.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

_RUN = 'bash "$0" >"$1" 2>&1; code=$?; [ -e "$2.ended" ] || echo "$code" >"$2.ended"'


def sbatch(state: Path, arguments: list[str]) -> int:
    if (state / "refuses").exists():
        print("sbatch: error: invalid partition specified: x", file=sys.stderr)
        return 1
    text = Path(arguments[-1]).read_text()
    tasks = int(re.search(r"--array=0-(\d+)", text)[1]) + 1
    logs = re.search(r"--output='?([^'\n]*)", text)[1]
    array = len(list(state.glob("*.sh"))) + 1
    (state / f"{array}.sh").write_text(text)
    for task in range(tasks):
        name = f"{array}_{task}"
        log = logs.replace("%A", str(array)).replace("%a", str(task)).replace("%%", "%")
        job = subprocess.Popen(
            ["bash", "-c", _RUN, str(state / f"{array}.sh"), log, str(state / name)],
            env={**os.environ, "SLURM_ARRAY_JOB_ID": str(array), "SLURM_ARRAY_TASK_ID": str(task)},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        (state / f"{name}.job").write_text(str(job.pid))
    print(array)
    return 0


def squeue(state: Path, arguments: list[str]) -> int:
    if (state / "deaf").exists():
        print("slurm_load_jobs error: Unable to contact slurm controller", file=sys.stderr)
        return 1
    for job in sorted(state.glob("*.job")):
        ended = job.with_suffix(".ended")
        code = ended.read_text().strip() if ended.exists() else None
        states = {None: "RUNNING", "0": "COMPLETED", "CANCELLED": "CANCELLED", "PENDING": "PENDING"}
        array, _, task = job.stem.partition("_")
        print(f"{array}|{task}|{states.get(code, 'FAILED')}|here|None")
    return 0


def scancel(state: Path, arguments: list[str]) -> int:
    with (state / "cancelled").open("a") as file:
        file.write(json.dumps(arguments) + "\n")
    for job in state.glob("*.job"):
        ended = job.with_suffix(".ended")
        if (
            job.stem.partition("_")[0] in arguments
            and not ended.exists()
            and "--state=PENDING" not in arguments
        ):
            ended.write_text("CANCELLED")
            os.killpg(int(job.read_text()), signal.SIGTERM)
    return 0


def scontrol(state: Path, arguments: list[str]) -> int:
    if arguments == ["show", "config"]:
        print("MaxArraySize            = 3")
    elif arguments[0] == "requeue":
        (state / f"{arguments[1]}.ended").write_text("PENDING")
    return 0


def install(folder: Path) -> Path:
    """Put the commands into ``folder/bin``; returns it."""
    (folder / "bin").mkdir(parents=True)
    (folder / "state").mkdir()
    for name in ("sbatch", "squeue", "scancel", "scontrol"):
        program = folder / "bin" / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{__file__}" {name} "$@"\n')
        program.chmod(0o755)
    return folder / "bin"


if __name__ == "__main__":
    sys.exit(globals()[sys.argv[1]](Path(os.environ["FAKE_SLURM"]), sys.argv[2:]))
