"""The batch script of an array of workers, and what ``squeue`` says of one. Pure; ``slurm`` runs the commands.

The script is plain bash, left beside its logs, so that people can read it, change it and submit it by hand.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence

from dstbench.errors import BadInput

UNFINISHED = 75
"""What ``dstbench worker`` ends with where it stopped early and something is left to do."""
FORMAT = "%F|%K|%T|%N|%r"
"""Of ``squeue``: array, task, state, nodes, reason."""
_WAITING = (
    "PENDING",
    "CONFIGURING",
    "REQUEUED",
    "REQUEUE_FED",
    "REQUEUE_HOLD",
    "RESV_DEL_HOLD",
    "SPECIAL_EXIT",
)
_RUNNING = ("RUNNING", "COMPLETING", "SIGNALING", "STAGE_OUT", "RESIZING", "SUSPENDED", "STOPPED")

# SLURM sends USR2 to the batch shell alone (``B:``), some time before the limit; the worker has its running trials
# write their checkpoints, and ends with 75. A job that is cancelled, pre-empted or requeued gets TERM, worker and
# all: then its state isn't RUNNING any more, and SLURM knows what is to become of it. The id has to be that of the
# task: the plain id of an array's last task means the whole array to scontrol. A worker that was told before it
# could listen is ended by that.
_BODY = """\
job=${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}
worker= heard=0 asked=
trap 'heard=$((heard + 1)) asked=yes; [ -z "$worker" ] || kill -USR2 "$worker" 2>/dev/null' USR2
trap 'heard=$((heard + 1)) asked=yes' TERM

{setup}
if [ -n "$asked" ]; then
    code={unfinished}
else
    {command} &
    worker=$!
    [ -z "$asked" ] || kill -USR2 "$worker" 2>/dev/null
    while seen=$heard; wait "$worker"; code=$?; [ "$code" -gt 128 ] && [ "$heard" != "$seen" ]; do :; done
    [ -z "$asked" ] || [ "$code" -le 128 ] || code={unfinished}
fi
[ "$SECONDS" -lt {early} ] || asked=yes
if [ "$code" = {unfinished} ] && [ -n "$asked" ] && [ "$(squeue -h -j "$job" -o %T)" = RUNNING ]; then
    echo "requeued: something is left to do"
    {requeue}
fi
exit "$code"
"""


def script(
    options: Sequence[str],
    setup: Sequence[str],
    environment: Mapping[str, str],
    command: Sequence[str],
    requeue: bool,
    until: int | None = None,
) -> str:
    """The text of a batch script.

    options: ``--name=value`` of sbatch. setup: lines of bash that run before the worker. environment: variables
    that the worker has whatever the site does with the submitter's. command: of the worker. until: seconds after
    which it stops by itself. One that leaves something undone long before that, and untold, has failed.
    """
    head = [f"#SBATCH {option}" for option in options]
    exports = [f"export {name}={shlex.quote(value)}" for name, value in sorted(environment.items())]
    body = _BODY.format(
        setup="".join(f"{line}\n" for line in (*exports, *setup)),
        command=shlex.join(command),
        unfinished=UNFINISHED,
        early=2**31 if until is None else until // 2,
        requeue='exec scontrol requeue "$job"' if requeue else ":",
    )
    return "\n".join(["#!/bin/bash", *head, "", body])


def option(name: str, value: object) -> str:
    """An option as a line of a script has it."""
    return f"--{name}={shlex.quote(str(value))}"


def array_sizes(workers: int, most: int) -> list[int]:
    """How many workers each array has, none more than ``most``: as even as can be."""
    arrays = -(-workers // most)
    return [workers // arrays + (i < workers % arrays) for i in range(arrays)]


def states(listing: str) -> dict[str, dict[str, str]]:
    """Task -> state, node and reason, of what ``squeue -h -r`` with ``FORMAT`` printed."""
    tasks = {}
    for line in listing.splitlines():
        if line.count("|") < 4:
            continue
        array, task, state, node, reason = line.strip().split("|", 4)
        tasks[f"{array}_{task}"] = {
            "state": state,
            "node": node,
            "reason": "" if reason == "None" else reason,
        }
    return tasks


def is_alive(state: str) -> bool:
    """Whether a job of this state waits or runs. One that nobody knows any more has ended."""
    return state in _WAITING or state in _RUNNING


_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
_SLURM = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")


def minutes(time: str | int) -> int:
    """A time limit in whole minutes, rounded up: ``3h50m``, ``2d``, or as SLURM writes it: minutes, ``MM:SS``,
    ``HH:MM:SS``, ``D-HH``, ``D-HH:MM`` or ``D-HH:MM:SS``. Raises BadInput."""
    text = str(time).strip().lower()
    seconds = 0
    if text and (match := _DURATION.fullmatch(text)):
        days, hours, whole, rest = (int(part or 0) for part in match.groups())
        seconds = ((days * 24 + hours) * 60 + whole) * 60 + rest
    elif match := _SLURM.fullmatch(text):
        day, first, second, third = match.groups()
        parts = [int(part) for part in (first, second, third) if part is not None]
        if day is None:  # minutes come first, unless hours do
            parts = [0, *parts] if len(parts) < 3 else parts
        parts += [0] * (3 - len(parts))
        seconds = ((int(day or 0) * 24 + parts[0]) * 60 + parts[1]) * 60 + parts[2]
    if seconds <= 0:
        raise BadInput(f"time: expected a duration such as 4h, 3h50m, 2d or 1-12:00:00, got {time!r}")
    return -(-seconds // 60)
