"""Who runs when, and what becomes of what ends badly; the workers here do what a script says."""

import pytest

from bench.results.store import Store, write_json
from bench.runner.launchers.callbacks import RunCallback
from bench.runner.launchers.scheduler import LOST, Scheduler
from bench.runner.launchers.subprocess_job import Job, ProcessExit
from bench.runner.launchers.tasks import black_box_folder, prepared_folder
from tests.support.small_birds import few_birds, planned


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return few_birds(tmp_path_factory.mktemp("grid"))


class Script:
    """Does every job at once, or what is foreseen for it instead; one of them after the other ends."""

    def __init__(self, store, home, foreseen=(), slots=2):
        self.store, self.home, self.foreseen, self.slots = store, home, dict(foreseen), slots
        self.tasks, self.running, self.started, self.stopped = {}, {}, [], False

    @property
    def free(self):
        return self.slots - len(self.running)

    def start(self, jobs):
        for job in jobs:
            self.running[job.name] = job
            self.started.append(job.name)

    def wait(self, seconds):
        for name in list(self.running)[:1]:
            del self.running[name]
            ends = self.foreseen.get(name, [])
            found = ends.pop(0) if ends else ProcessExit(0)
            if isinstance(found, BaseException):
                raise found
            if callable(found):
                found = found(self.tasks[name])
            if found.code == 0:
                self.do(self.tasks[name])
            yield name, found

    def do(self, task):
        folder = {
            "data": lambda: prepared_folder(task.cell.spec, self.home),
            "black-box": lambda: black_box_folder(task.cell.spec, self.home).result,
            None: lambda: self.store.cell(task.name).result,
        }[task.stage]()
        folder.mkdir(parents=True)

    def stop(self):
        self.stopped = True


class Told(RunCallback):
    def __init__(self):
        self.lines = []

    def skipped(self, task, why):
        self.lines.append((task.cell.spec.method, why))

    def failed(self, task, reason, out_of_memory):
        self.lines.append((task.stage or task.cell.spec.method, reason, out_of_memory))

    def requeued(self, task, reason):
        self.lines.append((task.stage or task.cell.spec.method, "again", reason))


def grid(data, home, foreseen=(), slots=2, rerun=False, before=lambda store, cells: None, **request):
    store = Store(home)
    cells = planned(data, home, **{"methods": ("ours", "protopnet"), "controls": False, **request})
    for cell in cells:
        store.cell(cell.spec.id).path.mkdir(parents=True, exist_ok=True)
    before(store, cells)
    names = {cell.spec.method: cell.spec.id for cell in cells}
    workers = Script(store, home, {names.get(name, name): ends for name, ends in dict(foreseen).items()}, slots)
    events = Told()

    def job(task):
        workers.tasks[task.name] = task
        return Job(task.name, str(store.cell(task.cell.spec.id).path), (), {})

    found = Scheduler(cells, store, home, workers, events, job, rerun=rerun)
    for task in found.waiting:
        if task.stage in dict(foreseen):
            workers.foreseen[task.name] = dict(foreseen)[task.stage]
    return found, workers, events, names


def test_shared_stages_come_first_and_nobody_waits_who_need_not(data, tmp_path):
    found, workers, _, names = grid(data, tmp_path, controls=True)
    summary = found.run()
    assert len(summary.done) == 7
    images, box = (next(name for name in workers.started if name.startswith(what)) for what in ("data", "black box"))
    assert workers.started[0] == images
    # The second worker has protopnet or a control while the first trains the black box.
    assert workers.started[1] == box
    assert workers.started.index(names["ours"]) > workers.started.index(names["protopnet"])
    assert len(workers.started) == len(set(workers.started)) == 9


def test_a_lost_worker_is_replaced_and_not_for_ever(data, tmp_path):
    lost = ProcessExit(-9, "node3", "Killed\n")
    found, workers, events, names = grid(data, tmp_path, {"ours": [lost] * 9, "protopnet": [lost]})
    summary = found.run()
    assert summary.done == [names["protopnet"]]
    assert workers.started.count(names["ours"]) == LOST + 1
    assert summary.failed == {names["ours"]: "ended by signal 9 on node3: Killed"}
    assert ("protopnet", "again", "lost (ended by signal 9 on node3: Killed)") in events.lines
    assert Store(tmp_path).cell(names["ours"]).failure["details"] == "Killed\n"


def test_a_failure_is_final_and_what_could_not_be_recorded_is(data, tmp_path):
    found, workers, _, names = grid(
        data, tmp_path, {"ours": [ProcessExit(1, "node3", "Traceback\nImportError: no torch\n")]}
    )
    assert found.run().failed == {names["ours"]: "exit code 1 on node3: ImportError: no torch"}
    assert workers.started.count(names["ours"]) == 1
    assert Store(tmp_path).cell(names["ours"]).failure["details"] == "Traceback\nImportError: no torch\n"


def test_reason_is_the_cells_record_unless_it_is_old(data, tmp_path):
    store = Store(tmp_path)

    def record(task):
        store.cell(task.name).fail("oom", "fit: tried to allocate 9 GiB", "where")
        return ProcessExit(1, "node3", "noise")

    def before(store, cells):
        for cell in cells:
            store.cell(cell.spec.id).fail("failed", "of last week")

    found, _, events, names = grid(
        data, tmp_path, {"ours": [record], "protopnet": [ProcessExit(1, "node3", "noise")]}, before=before
    )
    assert found.run().failed == {
        names["ours"]: "fit: tried to allocate 9 GiB",
        names["protopnet"]: "exit code 1 on node3: noise",
    }
    assert ("ours", "fit: tried to allocate 9 GiB", True) in events.lines
    assert store.cell(names["ours"]).failure["details"] == "where"


def test_a_black_box_that_fails_fails_its_cells_at_once(data, tmp_path):
    store = Store(tmp_path)

    def record(task):
        store.cell(task.cell.spec.id).fail("failed", "loss became nan", "where")
        return ProcessExit(1, "", "noise")

    found, workers, _, names = grid(data, tmp_path, {"black-box": [record]}, controls=True)
    summary = found.run()
    assert summary.failed == dict.fromkeys((names["ours"], names["blackbox"]), "loss became nan")
    assert {names["ours"], names["blackbox"]}.isdisjoint(workers.started)
    for name in ("ours", "blackbox"):
        assert store.cell(names[name]).failure["reason"] == "loss became nan"
    assert len(summary.done) == 5


@pytest.mark.parametrize("stage", ["data", "black-box"])
def test_stage_that_dies_leaves_a_reason_in_waiting_cells(data, tmp_path, stage):
    """The data stage also takes with it the black box that waits for it."""
    end = ProcessExit(1, "node3", "Traceback\nImportError: libcudart.so\n")
    found, _, _, names = grid(data, tmp_path, {stage: [end]}, methods=("ours", "ours-contrast"))
    reason = "exit code 1 on node3: ImportError: libcudart.so"
    assert found.run().failed == dict.fromkeys(names.values(), reason)
    assert {Store(tmp_path).cell(name).failure["reason"] for name in names.values()} == {reason}


def test_a_cell_that_another_run_works_on_is_left_until_last(data, tmp_path):
    store = Store(tmp_path)
    claims = []

    def claim(store, cells):
        claims.append(store.cell(next(cell.spec.id for cell in cells if cell.spec.method == "ours")).claim())
        claims[0].__enter__()

    def done_elsewhere(task):
        store.cell(names["ours"]).result.mkdir(parents=True)
        claims[0].__exit__(None, None, None)
        return ProcessExit(0)

    found, workers, events, names = grid(data, tmp_path, {"protopnet": [done_elsewhere]}, before=claim)
    summary = found.run()
    assert workers.started[-1] == names["protopnet"]
    assert summary.before == [names["ours"]]
    assert ("ours", "done by another run") in events.lines


def test_a_cell_that_fails_in_another_run_is_not_tried_here(data, tmp_path):
    def failed_elsewhere(task):
        store.cell(names["ours"]).fail("oom", "fit: too large")
        return ProcessExit(0)

    found, workers, events, names = grid(data, tmp_path, {"protopnet": [failed_elsewhere]}, slots=1)
    store = Store(tmp_path)
    found.waiting.sort(key=lambda task: task.name == names["ours"])
    assert found.run().failed == {names["ours"]: "fit: too large"}
    assert names["ours"] not in workers.started
    assert ("ours", "in another run: fit: too large", True) in events.lines


def test_done_and_unmeasured_cells_are_told_apart(data, tmp_path):
    def before(store, cells):
        store.cell(next(cell.spec.id for cell in cells if cell.spec.method == "ours")).result.mkdir(parents=True)

    found, _, events, names = grid(
        data, tmp_path, before=before, controls=True, metrics=("accuracy",), methods=("ours", "protopnet")
    )
    summary = found.run()
    assert summary.before == [names["ours"]]
    assert sorted(summary.unmeasured) == sorted(
        names[name] for name in ("constant", "center", "random", "random_fixed")
    )
    assert str(summary) == "3 of 3 cells done (1 before), 0 failed; nothing to measure in 4 more"
    assert ("constant", "nothing to measure") in events.lines


def test_rerun_forgets_once(data, tmp_path):
    def before(store, cells):
        for cell in cells:
            write_json(store.cell(cell.spec.id).result / "result.json", {})

    found, workers, _, names = grid(data, tmp_path, {"ours": [ProcessExit(-9)]}, rerun=True, before=before)
    assert sorted(found.run().done) == sorted(names.values())
    assert workers.started.count(names["ours"]) == 2


def test_rerun_tries_again_what_had_failed(data, tmp_path):
    def before(store, cells):
        for cell in cells:
            store.cell(cell.spec.id).fail("failed", "of last week")

    found, workers, _, names = grid(data, tmp_path, rerun=True, before=before)
    assert sorted(found.run().done) == sorted(names.values())
    assert set(names.values()) <= set(workers.started)


def test_rerun_goes_on_with_what_an_interrupted_rerun_had_begun(data, tmp_path):
    def before(store, cells):
        for cell in cells:
            store.cell(cell.spec.id).clear()
            write_json(store.cell(cell.spec.id).resume / "training.json", {"epoch": 90})

    found, _, _, names = grid(data, tmp_path, rerun=True, before=before)
    assert sorted(found.run().done) == sorted(names.values())
    assert all((Store(tmp_path).cell(name).resume / "training.json").is_file() for name in names.values())


def test_ctrl_c_stops_the_workers(data, tmp_path):
    found, workers, _, _ = grid(data, tmp_path, {"protopnet": [KeyboardInterrupt()]})
    with pytest.raises(KeyboardInterrupt):
        found.run()
    assert workers.stopped
