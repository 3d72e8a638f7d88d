"""Trials that behave in every way a trial can. They need no torch, so the server forks them at once."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from dstbench.errors import DataUnavailable
from dstbench.runner.trial import interruption


def behave(trial, folder, *, threads, do="succeed", **options):
    """Do what the option ``do`` says."""
    return ACTIONS[do](trial, Path(folder), threads)


def by_seed(trial, folder, *, threads, **options):
    """Behave by the trial's seed, for runs of whole matrices."""
    action = {0: "succeed", 1: "raise", 2: "kill", 3: "sleep", 4: "speak", 5: "go on"}[trial.seed]
    return ACTIONS[action](trial, Path(folder), threads)


def by_rate(trial, folder, *, threads, **options):
    """The nearer the learning rate is to 0.1, the better; from 1 on a training diverges. Of a density above 0.4 all
    do. Tuning trials say nothing of test data."""
    rate = trial.training.lr
    if rate >= 1 or trial.density > 0.4:
        return {
            "status": "diverged",
            "reason": "the training loss is nan",
            "phase": "train",
            "traceback": None,
        }
    gain = 90 - 100 * abs(rate - 0.1)
    return {
        "status": "ok",
        "measures": {"top1_validation": gain} | ({} if trial.tunes else {"top1": gain - 5}),
    }


def by_rate_lower(trial, folder, *, threads, **options):
    """The same where less is better."""
    record = by_rate(trial, folder, threads=threads)
    if record["status"] == "ok":
        loss = 100 - record["measures"]["top1_validation"]
        metric = {"task": "t", "metric": {"key": "loss", "title": "loss", "better": "lower"}}
        record["measures"] = {**metric, "score_validation": loss} | (
            {} if trial.tunes else {"score": loss + 1}
        )
    return record


def succeed(trial, folder, threads):
    print("a line for the log")
    measures = {"top1": 50.0, "seconds": 0.1}
    return {"status": "ok", "measures": measures, "provenance": {"threads": threads, "pid": os.getpid()}}


def sleep(trial, folder, threads):
    (folder / "started").touch()
    time.sleep(60)


def raise_error(trial, folder, threads):
    raise ValueError("a wrong value\nwith a second line")


def speak_to_the_terminal(trial, folder, threads):
    raise RuntimeError("bad \udcff \x1b[2J")


def lack_data(trial, folder, threads):
    if not (folder.parents[1] / "data").exists():
        raise DataUnavailable("no files of 'pictures' in nowhere")
    return succeed(trial, folder, threads)


def run_out_of_memory(trial, folder, threads):
    raise MemoryError


def kill_itself(trial, folder, threads):
    os.kill(os.getpid(), signal.SIGKILL)


def segfault(trial, folder, threads):
    os.kill(os.getpid(), signal.SIGSEGV)


def leave(trial, folder, threads):
    os._exit(3)


def leave_as_if_done(trial, folder, threads):
    os._exit(0)


def leave_as_if_held(trial, folder, threads):
    os._exit(75)


def close_everything(trial, folder, threads):
    os.closerange(0, 256)
    return {"status": "ok"}


def kill_its_group(trial, folder, threads):
    os.killpg(0, signal.SIGKILL)


def kill_its_supervisor(trial, folder, threads):
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)


def stop_its_supervisor(trial, folder, threads):
    os.kill(os.getppid(), signal.SIGSTOP)
    time.sleep(60)


def daemon(folder):
    """A process in a session of its own, whose parent is gone, and which no signal but SIGKILL ends."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.pthread_sigmask(signal.SIG_BLOCK, set(range(1, 32)))
            (folder / "daemon").write_text(str(os.getpid()))
            time.sleep(60)
        os._exit(0)
    os.wait()
    while not (folder / "daemon").exists() or not (folder / "daemon").read_text():
        time.sleep(0.01)


def leave_a_daemon(trial, folder, threads):
    daemon(folder)
    return succeed(trial, folder, threads)


def leave_a_daemon_and_die(trial, folder, threads):
    daemon(folder)
    os.kill(os.getpid(), signal.SIGKILL)


def leave_a_daemon_and_hang(trial, folder, threads):
    daemon(folder)
    time.sleep(60)


def leave_a_child(trial, folder, threads):
    child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
    (folder / "daemon").write_text(str(child.pid))
    return succeed(trial, folder, threads)


def print_much(trial, folder, threads):
    print("the beginning")
    for _ in range(30):
        print("A" * 1_000_000)
    print("the end", flush=True)
    return succeed(trial, folder, threads)


def print_much_and_die(trial, folder, threads):
    print_much(trial, folder, threads)
    os.kill(os.getpid(), signal.SIGKILL)


def take_a_second(trial, folder, threads):
    time.sleep(1)
    return succeed(trial, folder, threads)


def go_on(trial, folder, threads):
    """Trains until it is asked to stop; where it was before, it has little left to do."""
    if (folder / "checkpoint").exists():
        return succeed(trial, folder, threads)
    (folder / "started").touch()
    while not interruption.asked():
        time.sleep(0.01)
    (folder / "checkpoint").touch()
    raise interruption.Interrupted


def lose_its_lease(trial, folder, threads):
    shutil.rmtree(folder / "lease")
    return succeed(trial, folder, threads)


def ignore_sigterm(trial, folder, threads):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
    (folder / "grandchild").write_text(str(child.pid))
    time.sleep(60)


def hold(size):
    """Take memory piece by piece up to ``size`` bytes, and keep it."""
    pieces = []
    while sum(map(len, pieces)) < size:
        pieces.append(bytearray(b"x") * 2**22)
        time.sleep(0.005)  # as what fills memory does with something
    return pieces


def take_memory(trial, folder, threads):
    kept = hold(2**31)
    return succeed(trial, folder, threads) | {"measures": {"top1": float(len(kept))}}


def take_memory_at_once(trial, folder, threads):
    return succeed(trial, folder, threads) | {"measures": {"top1": float(len(bytearray(2**40)))}}


def take_memory_in_children(trial, folder, threads):
    """Four that hold a part each, and of which none would be noticed by itself."""
    for _ in range(4):
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            kept = hold(48 * 2**20)
            time.sleep(60)
            os._exit(len(kept))
    time.sleep(60)


def take_memory_regardless(trial, folder, threads):
    signal.pthread_sigmask(signal.SIG_BLOCK, set(range(1, 32)))
    kept = hold(108 * 2**20)
    time.sleep(60)
    return {"status": "ok", "measures": {"top1": float(len(kept))}}


def fill_the_disk(trial, folder, threads):
    with (folder / "fill").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(65536))


def count(trial, folder, threads):
    """A training of a quarter of a second that writes as it goes."""
    for step in range(8):
        time.sleep(0.03)
        (folder / "curve.jsonl").write_text(f"{step}\n")
    return {"status": "ok", "measures": {"top1": int(folder.name[:2], 16) / 2, "steps": 8}}


def raise_base_exception(trial, folder, threads):
    raise BaseException("no Exception")


def hang_in_native_code(trial, folder, threads):
    """Hold the interpreter's lock, with all signals blocked: no Python code runs any more."""
    signal.pthread_sigmask(signal.SIG_BLOCK, set(range(1, 32)))
    ctypes.PyDLL(None).sleep(60)


def raise_beside_another(trial, folder, threads):
    """Fail once another trial of the results folder runs."""
    while len([*folder.parent.parent.glob("*/*/lease")]) < 2:
        time.sleep(0.01)
    raise ValueError("a wrong value")


def kill_its_worker(trial, folder, threads):
    """Take the supervisor and the scheduler along, as a machine that runs out of memory does."""
    supervisor = psutil.Process(os.getppid())
    server = supervisor.parent()
    for process in (server.parent(), server, supervisor, psutil.Process()):
        process.kill()


def kill_its_worker_unless_alone(trial, folder, threads):
    """Needs what another that runs beside it takes."""
    time.sleep(0.5)  # in which another may come
    if len(psutil.Process(os.getppid()).parent().children()) > 1:
        kill_its_worker(trial, folder, threads)
    return succeed(trial, folder, threads)


def change_everything(trial, folder, threads):
    """Leave the process another one: folder, environment, seeds, warnings, the very function that writes records."""
    import random

    from dstbench.runner.execution import worker

    random.seed(1)
    os.chdir("/")
    os.environ["DSTBENCH_TEST"] = "changed"
    os.umask(0o077)
    sys.path.insert(0, "/nowhere")
    sys.setrecursionlimit(10_000)
    worker.succeed = None
    return succeed(trial, folder, threads)


def describe_process(trial, folder, threads):
    """What a trial finds."""
    from dstbench.runner.execution import worker

    mask = os.umask(0o022)
    found = [str(Path.cwd()), os.environ.get("DSTBENCH_TEST"), mask, sys.path[0], sys.getrecursionlimit()]
    found.append(hasattr(worker, "succeed"))
    return {"status": "ok", "measures": {}, "provenance": {"found": repr(found)}}


def swallow_its_record(trial, folder, threads):
    from dstbench.runner.execution import worker

    worker.write_record = lambda *args: {}
    return succeed(trial, folder, threads)


ACTIONS = {
    "succeed": succeed, "sleep": sleep, "raise": raise_error, "oom": run_out_of_memory, "kill": kill_itself,
    "lack data": lack_data,
    "segfault": segfault, "leave": leave, "ignore": ignore_sigterm,
    "exit 0": leave_as_if_done, "exit 75": leave_as_if_held, "close all": close_everything,
    "swallow": swallow_its_record,
    "kill group": kill_its_group, "kill supervisor": kill_its_supervisor, "stop supervisor": stop_its_supervisor,
    "daemon": leave_a_daemon, "daemon, die": leave_a_daemon_and_die, "daemon, hang": leave_a_daemon_and_hang,
    "child": leave_a_child, "print": print_much, "print, die": print_much_and_die, "second": take_a_second,
    "speak": speak_to_the_terminal, "go on": go_on, "lose": lose_its_lease,
    "allocate": take_memory, "allocate at once": take_memory_at_once,
    "allocate in children": take_memory_in_children, "allocate, ignore": take_memory_regardless,
    "BaseException": raise_base_exception, "native": hang_in_native_code, "change": change_everything,
    "describe": describe_process, "fill the disk": fill_the_disk, "count": count,
    "raise beside": raise_beside_another, "kill worker": kill_its_worker, "alone": kill_its_worker_unless_alone,
}  # fmt: skip


def break_down(trial, folder, *, threads, contended, **options):
    """A throughput measurement that fails."""
    raise RuntimeError("no measurement")


def measure(trial, folder, *, threads, contended, do="succeed", **options):
    """A throughput measurement, unless the option ``do`` says otherwise."""
    ACTIONS[do](trial, Path(folder), threads)
    speed = {"images_per_second": 10.0, "dense_images_per_second": 20.0, "ratio": 0.5}
    return {"path": "masked-dense", "threads": threads, "contended": contended, "train": speed}


def measure_contended(trial, folder, **options):
    """A measurement beside which something else ran."""
    return {**measure(trial, folder, **options), "contended": True}
