"""A disk that is full or read-only: said before a run, waited for in it, and nothing half-written is ever read."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from dstbench.cli.app import FULL, app
from dstbench.errors import BadInput
from dstbench.report import page
from dstbench.report.page import write_leaderboards
from dstbench.results import storage
from dstbench.results.record import Rejected, read_record, search
from dstbench.results.storage import append_line, check_room, patiently
from dstbench.runner.execution import plan_file
from dstbench.runner.execution.local import run_local
from dstbench.runner.execution.order import Order
from dstbench.runner.execution.plan_file import read_plan, write_plan
from dstbench.runner.execution.worker import UNWRITTEN
from dstbench.runner.trial import tensor_files
from fakes.jobs import job, outcomes

MIB = 2**20


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device", "somewhere")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MiB, and what fills it, and empties it again."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("only root mounts a file system")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=False)


def fill(place):
    with (place / "fill").open("wb", buffering=0) as file:
        while True:
            try:
                file.write(bytes(65536))
            except OSError:
                return


def test_a_disk_that_is_full_from_the_start_runs_nothing_and_keeps_what_is_there(small_disk, monkeypatch):
    monkeypatch.setenv("DSTBENCH_PATIENCE", "0.2")
    first = job(small_disk)
    outcomes([first])
    fill(small_disk)
    seen = []
    others = [job(small_disk, f"{i:02x}" * 16) for i in range(5)]
    with pytest.raises(OSError, match="the rest stays open"):
        run_local(others, workers=1, on_event=seen.append)
    assert {event.status for event in seen if event.kind == "finished"} <= {"unwritten"}
    assert len(seen) <= 2  # no more than one was started
    (small_disk / "fill").unlink()
    assert read_record(first.folder)["status"] == "ok"
    assert [found for found in search(small_disk) if isinstance(found, Rejected)] == []
    assert {event.status for event in outcomes(others).values()} == {"ok"}  # the same call goes on


def test_a_disk_that_fills_up_in_a_trial_stops_no_other_one(small_disk, monkeypatch):
    monkeypatch.setenv("DSTBENCH_PATIENCE", "0.2")
    filling = job(small_disk, do="fill the disk")
    later = job(small_disk, "cd" * 16)
    seen = []
    with pytest.raises(OSError, match="full"):
        run_local([filling, later], workers=1, on_event=seen.append)
    assert [(event.job.key, event.status) for event in seen if event.kind == "finished"] == [
        (filling.key, "unwritten")
    ]
    assert not (filling.folder / "result.json").exists()


def test_a_full_disk_while_a_record_is_written_leaves_the_trial_open(tmp_path, monkeypatch):
    from dstbench.runner.execution import worker

    monkeypatch.setattr(worker, "write_record", full)
    monkeypatch.setenv("DSTBENCH_PATIENCE", "0.1")
    one = job(tmp_path)
    assert worker.work(one, 1) == UNWRITTEN
    monkeypatch.undo()
    assert worker.work(one, 1) == 0
    assert read_record(one.folder)["status"] == "ok"


def test_a_record_is_written_once_there_is_room(tmp_path, monkeypatch):
    calls = []

    def write():
        calls.append(1)
        if len(calls) < 3:
            full()
        return "written"

    assert patiently(write, 20) == "written"
    assert len(calls) == 3
    with pytest.raises(OSError, match="No space"):
        patiently(full, 0.1)


def test_a_plan_and_a_board_are_written_once_there_is_room(tmp_path, monkeypatch):
    order = Order(tmp_path, (job(tmp_path),))
    write_leaderboards([tmp_path], tmp_path / "before")

    def at_the_second(write):
        calls = []

        def tried(*given, **more):
            calls.append(given)
            if len(calls) == 1:
                full()
            return write(*given, **more)

        return tried

    monkeypatch.setattr(plan_file, "write_whole", at_the_second(plan_file.write_whole))
    monkeypatch.setattr(page, "write_all", at_the_second(page.write_all))
    assert [planned.key for planned in read_plan(write_plan(order, "suite")).train] == [order.train[0].key]
    write_leaderboards([tmp_path], tmp_path / "after")
    before, after = ((tmp_path / name / "index.html").read_bytes() for name in ("before", "after"))
    assert before == after


def test_a_checkpoint_on_a_full_disk_leaves_the_one_before(small_disk):
    """torch's writer tells of a full disk in words of its own, which nobody would wait for."""
    path = small_disk / "checkpoint.pt"
    tensor_files.write({"weights": torch.ones(300_000)}, path)
    with pytest.raises(OSError) as error:  # 1.2 of the 4 MiB are taken
        tensor_files.write({"weights": torch.zeros(900_000)}, path)
    assert storage.is_full(error.value)
    assert torch.equal(tensor_files.read(path)["weights"], torch.ones(300_000))


def test_what_else_goes_wrong_is_not_waited_for():
    calls = []

    def write():
        calls.append(1)
        raise PermissionError(errno.EACCES, "no")

    with pytest.raises(PermissionError):
        patiently(write, 20)
    assert calls == [1]


def test_half_a_line_is_taken_back(tmp_path, monkeypatch):
    monkeypatch.setenv("DSTBENCH_PATIENCE", "0.1")
    path = tmp_path / "curve.jsonl"
    append_line(path, "one")
    append_line(path, "two")
    assert path.read_text() == "one\ntwo\n"
    opened = Path.open

    class Short:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def truncate(self, size):
            self.file.truncate(size)

        def write(self, content):
            return self.file.write(content[:2])

    monkeypatch.setattr(Path, "open", lambda self, *args, **options: Short(opened(self, *args, **options)))
    with pytest.raises(OSError, match="No space"):
        append_line(path, "three")
    monkeypatch.undo()
    assert path.read_text() == "one\ntwo\n"


def test_a_folder_without_room_is_refused(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda folder: usage._replace(free=3 * MIB))
    with pytest.raises(BadInput, match=r"out: expected 16 MiB of free space in .* at least, got 3.0 MiB"):
        check_room(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_read_only_folder_is_refused_before_anything_starts(small_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(BadInput, match=r"out: expected a folder that can be written to, .*Read-only"):
        check_room(small_disk / "results")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_of_another_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(BadInput, match="Permission denied"):
        check_room(tmp_path)


def test_the_command_says_it_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("dstbench.report.page.write_all", full)
    monkeypatch.setenv("DSTBENCH_PATIENCE", "0.2")
    (tmp_path / "results").mkdir()
    done = CliRunner().invoke(app, ["leaderboard", str(tmp_path / "results"), "--out", str(tmp_path / "out")])
    assert done.exit_code == FULL
    assert done.output == "error: somewhere: No space left on device\n"
