"""Workers as tasks of Ray: what is asked of it, by a stand-in; and a node that dies, on a real one (``-m long``)."""

import os
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from dstbench.errors import BadInput
from dstbench.registration.registry import registry
from dstbench.runner.cluster import follow
from dstbench.runner.cluster import ray as engine
from dstbench.runner.cluster.ray import Ray, run_worker
from dstbench.runner.cluster.submissions import submissions
from dstbench.runner.execution.order import Order
from dstbench.runner.execution.plan_file import write_plan
from dstbench.runner.execution.worker import work
from fakes import cluster
from fakes.jobs import job

TESTS = Path(cluster.__file__).parents[1]


class NodeDiedError(Exception):
    """As Ray's."""


@dataclass
class FakeRay:
    """As much of Ray as is used. A task does what the next of ``does`` says: it returns it, or raises it."""

    resources: dict
    does: list = field(default_factory=list)
    asked: dict = field(default_factory=dict)
    tasks: list = field(default_factory=list)
    cancelled: list = field(default_factory=list)
    connected: object = None

    class exceptions:
        RayError = NodeDiedError

    def is_initialized(self):
        return self.connected is not None

    def init(self, **options):
        self.connected = options
        if options["address"] == "nowhere":
            raise ConnectionError("no GCS")

    def shutdown(self):
        self.connected = None

    def cluster_resources(self):
        return self.resources

    def remote(self, **options):
        self.asked = options
        return lambda function: _Remote(self)

    def submit(self, command, environment, log):
        self.tasks.append((command, environment, log))
        return len(self.tasks) - 1

    def wait(self, references, num_returns, timeout):
        return [r for r in references if r < len(self.does)], []

    def get(self, reference):
        outcome = self.does[reference]
        if callable(outcome):
            outcome = outcome()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def cancel(self, reference):
        self.cancelled.append(reference)


@dataclass
class _Remote:
    fake: FakeRay

    def remote(self, *arguments):
        return self.fake.submit(*arguments)


@pytest.fixture
def ray(monkeypatch):
    fake = FakeRay({"CPU": 8.0, "GPU": 2.0})
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.setattr(follow, "PAUSE", 0.0)
    return fake


def order_of(root, trials):
    order = Order(root, tuple(job(root, f"{i:02x}" * 16, task="fakes.cluster:train") for i in range(trials)))
    write_plan(order, "test")
    return order


def ends(order, executor, workers=None):
    events = []
    executor(order, workers=workers, on_event=events.append)
    return [(e.status, e.reason) for e in events if e.kind == "finished"]


@pytest.mark.parametrize(
    ("executor", "resources", "gpus", "workers"),
    [
        (Ray(), {"CPU": 8.0, "GPU": 2.0}, 1.0, 2),
        (Ray(gpus=0.25), {"CPU": 8.0, "GPU": 2.0}, 0.25, 8),
        (Ray(gpus=0), {"CPU": 8.0, "GPU": 2.0}, 0, 8),
        (Ray(cpus=4), {"CPU": 8.0}, 0.0, 2),
        (Ray(resources={"lab": 1}), {"CPU": 8.0, "lab": 3.0}, 0.0, 3),
        (Ray(), {}, 0.0, 1),
    ],
)
def test_gpus_are_always_asked_for_and_nothing_is_run_again_by_ray(
    ray, tmp_path, executor, resources, gpus, workers
):
    ray.resources, ray.does = resources, [0] * 99
    assert {status for status, _ in ends(order_of(tmp_path, 30), executor)} == {"lost"}
    assert (ray.asked["num_gpus"], ray.asked["max_retries"]) == (gpus, 0)
    assert len(ray.tasks) == workers


def test_no_more_workers_than_there_is_work(ray, tmp_path):
    ray.does = [0] * 99
    ends(order_of(tmp_path, 3), Ray(), workers=7)
    assert len(ray.tasks) == 3
    command, environment, log = ray.tasks[0]
    assert command[1:] == ["-m", "dstbench", "worker", str(tmp_path), "--claim", "--workers", "1"]
    assert Path(log).parent.is_dir()
    assert set(environment) <= {name for name in os.environ if name.startswith("DSTBENCH_")} | {"PYTHONPATH"}


def test_a_worker_that_is_lost_with_its_node_is_replaced(ray, tmp_path):
    order = order_of(tmp_path, 1)
    ray.does = [NodeDiedError("The node died. And more."), lambda: work(order.train[0], 1)]
    assert ends(order, Ray()) == [("ok", None)]
    assert len(ray.tasks) == 2
    [one] = submissions(tmp_path, "ray")
    assert [job["state"] for job in one.jobs.values()] == ["NodeDiedError: The node died", "COMPLETED"]


def test_workers_that_die_again_and_again_end_the_run(ray, tmp_path):
    ray.does = [1] * 99
    told = ends(order_of(tmp_path, 2), Ray(), workers=2)
    assert told == [("lost", "no worker is left; worker 7: exit code 1")] * 2
    assert len(ray.tasks) == 2 * (1 + follow.PATIENCE)


def test_what_still_waits_at_the_end_is_cancelled(ray, tmp_path):
    order = order_of(tmp_path, 2)

    def both():
        for one in order.train:
            work(one, 1)
        return 0

    ray.does = [both]
    assert ends(order, Ray(), workers=2) == [("ok", None)] * 2
    assert ray.cancelled == [1]


def test_a_cluster_that_is_not_there_is_told(ray, tmp_path):
    with pytest.raises(BadInput, match="executor ray: no cluster at address 'nowhere': no GCS"):
        ends(order_of(tmp_path, 1), Ray(address="nowhere"))


def test_a_machine_without_ray_is_told_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        BadInput, match=r"executor ray: expected Ray, as `pip install 'dstbench\[ray\]'` has it"
    ):
        ends(order_of(tmp_path, 1), Ray())


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"gpu": 1}, "unknown parameter 'gpu'; did you mean 'gpus'"),
        ({"gpus": -1}, "gpus: expected 0 to 10,000, got -1"),
        ({"gpus": 1.5}, "gpus: expected a fraction up to 1 or a whole number, got 1.5"),
        ({"cpus": "all"}, "parameter 'cpus' expected float, got 'all'"),
        ({"detach": True}, "unknown parameter 'detach'"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(parameters, message):
    with pytest.raises(BadInput, match=message):
        registry().build("executor", {"name": "ray", **parameters})


def test_a_worker_ends_with_the_exit_code_of_its_process(tmp_path):
    command = [sys.executable, "-S", "-c", "import os; print(os.environ['DSTBENCH_X']); raise SystemExit(3)"]
    assert run_worker(command, {"DSTBENCH_X": "set"}, str(tmp_path / "log")) == 3
    assert (tmp_path / "log").read_text() == "set\n"


@pytest.fixture
def interruptible():
    """A shell's background jobs ignore SIGINT, and so would the tests that are one."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_a_cancelled_task_tells_its_worker_to_stop_and_waits_for_it(tmp_path):
    script = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('told', flush=True), sys.exit(75)))\n"
        "print('ready', flush=True); time.sleep(60)"
    )
    log = tmp_path / "log"

    def interrupt():
        until = time.monotonic() + 60
        while time.monotonic() < until:
            if log.exists() and "ready" in log.read_text():
                os.kill(os.getpid(), signal.SIGINT)
                return
            time.sleep(0.02)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        run_worker([sys.executable, "-S", "-c", script], {}, str(log))
    assert log.read_text() == "ready\ntold\n"
    assert not [child for child in psutil.Process().children() if script in child.cmdline()]


@pytest.fixture
def two_nodes(monkeypatch):
    """A Ray cluster of two nodes of one processor each, beside a head without any."""
    pytest.importorskip("ray", reason="Ray isn't installed: pip install 'dstbench[ray]'")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*filter(None, sys.path), str(TESTS)]))
    small = {"object_store_memory": 80 * 2**20}
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **small})
    try:
        yield nodes, [nodes.add_node(num_cpus=1, **small) for _ in range(2)]
    finally:
        nodes.shutdown()


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_forty_trials_outlive_a_node(two_nodes, tmp_path, monkeypatch):
    """One of two nodes is removed in mid-run: all trials end, and none twice."""
    monkeypatch.setenv(cluster.SECONDS, "2")
    ray_cluster, (first, _) = two_nodes
    order, told = order_of(tmp_path, 40), []

    def on_event(event):
        if event.kind == "finished":
            told.append(event.status)
            if len(told) == 8:
                ray_cluster.remove_node(first, allow_graceful=False)

    engine.Ray(address=ray_cluster.address)(order, on_event=on_event)
    assert told == ["ok"] * 40
    histories = cluster.histories(tmp_path)
    assert len(histories) == 40
    assert all([line.split()[0] for line in history].count("ended") == 1 for history in histories.values())
    [one] = submissions(tmp_path, "ray")
    assert [job["state"].partition(":")[0] for job in one.jobs.values()].count("NodeDiedError") >= 1
