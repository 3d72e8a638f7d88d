"""A repository for the results of others, and results as models of the Hub: what is written, without a network."""

from __future__ import annotations

import json
import re
import subprocess

import pytest
import yaml
from huggingface_hub import EvalResultEntry, ModelCard, parse_eval_result_entries
from typer.testing import CliRunner

from dstbench.cli.app import app
from dstbench.cli.community import write_community
from dstbench.errors import BadInput
from dstbench.results.record import folder_of, write_record
from dstbench.runner.submission import hub, weights
from dstbench.runner.submission.hub import repository, write_model


def step(workflow, name):
    [job] = workflow["jobs"].values()
    return next(step["run"] for step in job["steps"] if step.get("name") == name)


@pytest.fixture
def community(tmp_path):
    write_community(tmp_path / "repo", replay=50)
    return tmp_path / "repo"


def workflow(community, name):
    return yaml.safe_load((community / ".github" / "workflows" / f"{name}.yml").read_text())


def test_a_pull_request_has_no_rights_and_no_secrets(community):
    text = (community / ".github" / "workflows" / "verify.yml").read_text()
    verify = workflow(community, "verify")
    assert verify["permissions"] == {"contents": "read"}
    assert "pull_request_target" not in text
    assert "secrets." not in text
    assert "--replay 50" in step(verify, "Verify")


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True, timeout=60
    ).stdout.strip()


KEY = "ab" + "c" * 62


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        (f"results/ab/{KEY}/result.json", True),
        (f"results/ab/{KEY}/checkpoint.safetensors", True),
        (f"results/ab/{KEY}/state.pt", False),
        (f"results/ab/{KEY}/x/result.json", False),
        (f"verdicts/ab/{KEY}.json", False),
        (".github/workflows/verify.yml", False),
        ("results/old/result.json", False),
        ("boards/index.html", False),
        ("README.md", False),
    ],
)
def test_the_guard_lets_only_new_submissions_in(community, path, allowed):
    """The step of the workflow as it is, in a repository whose last commit changes one file."""
    (community / "results" / "old").mkdir()
    (community / "results" / "old" / "result.json").write_text("{}")
    git(community, "init", "-q")
    git(community, "add", "-A")
    git(community, "commit", "-qm", "base")
    base = git(community, "rev-parse", "HEAD")
    script = step(workflow(community, "verify"), "Only results may be handed in")
    file = community / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("changed")
    git(community, "add", "-A")
    git(community, "commit", "-qm", "change")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=community, env={"BASE": base, "PATH": "/usr/bin:/bin:/usr/local/bin"}, capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    assert (done.returncode == 0) == allowed, done.stdout + done.stderr
    if allowed:
        assert (community / "submitted.txt").read_text().split() == [f"results/ab/{KEY}"]


def test_the_guard_refuses_links(community):
    git(community, "init", "-q")
    git(community, "add", "-A")
    git(community, "commit", "-qm", "base")
    base = git(community, "rev-parse", "HEAD")
    folder = community / "results" / "ab" / KEY
    folder.mkdir(parents=True)
    (folder / "result.json").symlink_to("/etc/passwd")
    git(community, "add", "-A")
    git(community, "commit", "-qm", "change")
    script = step(workflow(community, "verify"), "Only results may be handed in")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=community, env={"BASE": base, "PATH": "/usr/bin:/bin:/usr/local/bin"}, capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert "only plain files" in done.stdout


def test_nothing_that_is_there_is_replaced(community):
    with pytest.raises(BadInput, match="exists"):
        write_community(community)


@pytest.fixture
def submission(tmp_path, make):
    record = make(top1=91.234)
    folder = folder_of(tmp_path / "s", record["key"])
    write_record(record, folder)
    (folder / weights.FILE).write_bytes(b"weights")
    return folder


def test_a_model_repository_is_written_as_the_hub_reads_it(submission, tmp_path):
    files = write_model(submission, "hf://me/rigl-digits", tmp_path / "out", "me/dstbench")
    names = {str(file.relative_to(tmp_path / "out")) for file in files}
    assert names == {"README.md", "result.json", weights.FILE, ".eval_results/dstbench.yaml"}
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.library_name == "dstbench"
    [result] = card.data.eval_results
    assert (result.metric_value, result.dataset_name, result.metric_type) == (0.91234, "digits", "accuracy")
    assert "grow:gradient" in card.data.tags
    [entry] = parse_eval_result_entries(
        yaml.safe_load((tmp_path / "out" / ".eval_results" / "dstbench.yaml").read_text())
    )
    assert isinstance(entry, EvalResultEntry)
    assert (entry.dataset_id, entry.task_id, entry.value) == ("me/dstbench", "small_cnn_digits", 91.234)
    assert "density 0.1, seed 0" in entry.notes


def test_a_record_can_not_write_on_the_card(tmp_path, make):
    harm = "x` | <script>alert(1)</script> [a](javascript:b)\n---\nlicense: mit"
    record = make() | {"label": harm}
    folder = folder_of(tmp_path / "s", record["key"])
    write_record(record, folder)
    (folder / weights.FILE).write_bytes(b"weights")
    write_model(folder, "hf://me/x", tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    spans = re.findall("`[^`\n]*`", text)
    assert all("<script>" not in part for part in re.split("`[^`\n]*`", text))
    assert any("<script>" in span for span in spans)
    assert ModelCard(text).data.license is None


@pytest.mark.parametrize(
    "target", ["me/x", "hf://x", "hf://me/x/y", "hf://../x", "hf://me/..", "hf:///etc", "s3://a/b"]
)
def test_addresses_that_are_none(target):
    with pytest.raises(BadInput, match="expected an address"):
        repository(target)


def test_push_uploads_what_it_wrote(submission, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(
        hub, "upload", lambda folder, target: calls.append((sorted(folder.iterdir()), target)) or "there"
    )
    run = CliRunner()
    done = run.invoke(
        app, ["results", "push", "hf://me/x", str(submission), "--dry-run", "--out", str(tmp_path / "o")]
    )
    assert (done.exit_code, calls) == (0, [])
    assert json.loads((tmp_path / "o" / "result.json").read_text())["key"] == submission.name
    assert run.invoke(app, ["results", "push", "hf://me/x", str(submission)]).stdout.endswith("there\n")
    [(files, target)] = calls
    assert target == "hf://me/x"
    assert {file.name for file in files} == {"README.md", "result.json", weights.FILE}


def test_what_is_no_submission(tmp_path, make, put):
    results = put(tmp_path / "r", [make()])
    folder = folder_of(results, make()["key"])
    done = CliRunner().invoke(app, ["results", "push", "hf://me/x", str(folder), "--dry-run"])
    assert done.exit_code == 2
    assert "results submit" in done.stderr
