"""Jobs of trials that behave as their option ``do`` says."""

from dstbench.recipe import Recipe
from dstbench.runner.execution.local import run_local
from dstbench.runner.execution.worker import Job
from dstbench.runner.matrix.config import Training
from dstbench.runner.matrix.trial_spec import TrialSpec

TRIAL = TrialSpec({"name": "m"}, {"name": "d"}, 0.1, 0, Recipe(), Training(epochs=1))


def job(root, key="ab" * 16, do="succeed", **changes):
    fields = {
        "trial": TRIAL, "task": "fakes.trials:behave", "options": {"device": "cpu", "do": do}, **changes
    }  # fmt: skip
    return Job(key, label="label", control=None, folder=root / key[:2] / key, **fields)


def outcomes(jobs, **options):
    """The event at the end of each, by key."""
    events = []
    run_local(jobs, on_event=events.append, **{"grace": 0.3, "workers": 2, **options})
    return {event.job.key: event for event in events if event.kind == "finished"}
