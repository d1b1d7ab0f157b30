import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from bench.contract import RequestError
from bench.report.mlflow import Mirror, serve
from bench.report.mlflow.server import create_database, import_mlflow
from bench.report.mlflow.tracking import logged
from tests.support.samples import Silent
from tests.support.small_birds import QUICK, called, few_birds
from tests.support.stores import METRICS, StoreMaker, epoch

ROOT = Path(__file__).resolve().parents[3]
ONE = {"accuracy": METRICS["accuracy"]}


def test_without_mlflow_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(RequestError, match=r"MLflow is not installed: pip install 'mlflow>=3.13'"):
        Mirror(tmp_path)
    (tmp_path / "mlflow.db").touch()
    with pytest.raises(RequestError, match="MLflow is not installed"):
        serve(tmp_path)


def test_telemetry_is_off_unless_the_user_said_something(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    pytest.importorskip("mlflow")
    import_mlflow()
    assert (os.environ.pop("MLFLOW_DISABLE_TELEMETRY"), os.environ["DO_NOT_TRACK"]) == ("true", "true")
    monkeypatch.setenv("DO_NOT_TRACK", "false")
    import_mlflow()
    assert "MLFLOW_DISABLE_TELEMETRY" not in os.environ


def test_a_half_made_database_is_never_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sqlalchemy_store = pytest.importorskip("mlflow.store.tracking.sqlalchemy_store")

    def killed(uri: str, artifacts: str) -> None:
        Path(uri.removeprefix("sqlite:///")).write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(sqlalchemy_store, "SqlAlchemyStore", killed)
    with pytest.raises(KeyboardInterrupt):
        create_database(tmp_path / "mlflow.db", "file:///nowhere")
    assert not (tmp_path / "mlflow.db").exists()

    class Whole:
        def __init__(self, uri: str, artifacts: str) -> None:
            unfinished = Path(uri.removeprefix("sqlite:///"))
            assert not unfinished.exists(), "the half of the killed one is in the way"
            unfinished.write_text("whole")
            self.engine = self

        def dispose(self) -> None: ...

    monkeypatch.setattr(sqlalchemy_store, "SqlAlchemyStore", Whole)
    create_database(tmp_path / "mlflow.db", "file:///nowhere")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"mlflow.db": "whole"}


def test_the_server_needs_a_database_and_a_free_port(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="run something first: python -m bench run"):
        serve(tmp_path)
    (tmp_path / "mlflow.db").touch()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(RequestError, match=rf"127.0.0.1:{port} cannot be used .*; try --port {port + 1}"):
            serve(tmp_path, port=port)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def environment(folder: Path) -> dict[str, str]:
    """As a user would have it who never heard of telemetry, with a home directory of their own."""
    kept = {
        name: value for name, value in os.environ.items() if name not in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK")
    }
    return {**kept, "HOME": str(folder), "XDG_CONFIG_HOME": str(folder / ".config"), "PYTHONPATH": str(ROOT)}


@pytest.mark.slow
def test_a_fresh_database_is_filled_by_four_at_once(tmp_path: Path) -> None:
    """Three processes mirror a run each, and one all of them: every run is there once, and nothing is elsewhere."""
    pytest.importorskip("mlflow")
    home, cwd, user = (tmp_path / name for name in ("home", "cwd", "user"))
    for folder in (home, cwd, user):
        folder.mkdir()
    maker = StoreMaker(home)
    history = [epoch(number, "all", 0.5**number) for number in range(20)]
    cells = [
        maker.cell("ours", {"accuracy": 80.0 + seed}, seed=seed, history=history, metrics=ONE) for seed in range(3)
    ]
    stamps = [maker.invocation([cell], f"20260305-000000-{number:03d}") for number, cell in enumerate(cells)]
    command = [sys.executable, "-m", "bench", "sync"]
    kept: dict[str, Any] = {"cwd": cwd, "env": {**environment(user), "BENCH_HOME": str(home)}, "text": True}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    started = [
        subprocess.Popen([*command, *words], **pipes, **kept) for words in (*(["--run", one] for one in stamps), [])
    ]
    said = [process.communicate(timeout=600) for process in started]
    assert [process.returncode for process in started] == [0] * 4, said
    assert [err for _, err in said] == [""] * 4
    assert sum(int(number) for out, _ in said for number in re.findall(r"MLflow runs: (\d+) created", out)) == 6
    assert list(cwd.iterdir()) == list(user.iterdir()) == []
    client = Mirror(home).client
    experiment = client.get_experiment_by_name("partbench/default").experiment_id
    runs = client.search_runs([experiment])
    assert len(runs) == 6
    found = {run.data.tags.get("bench.cell"): run for run in runs}
    assert set(found) == {*cells, None}
    for seed, cell in enumerate(cells):
        assert (found[cell].info.status, found[cell].data.metrics["Scores/accuracy"]) == ("FINISHED", 80.0 + seed)
        assert len(client.get_metric_history(found[cell].info.run_id, "train/loss")) == 20


@pytest.mark.slow
def test_a_run_is_logged_cell_by_cell_and_then_whole(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    home, told = tmp_path / "my home", Silent()
    maker = StoreMaker(home)
    cells = [maker.cell("ours", seed=seed) for seed in range(2)]
    stamp = maker.invocation(cells)
    with logged(home, None, None, stamp, told) as ended:
        maker.finish(cells[0], {"accuracy": 90.0, "consistency": 70.0, "stability": 80.0})
        ended(cells[0])
        found: list[Any] = []
        until = time.monotonic() + 300
        while not found and time.monotonic() < until:
            time.sleep(0.1)
            if (home / "mlflow.db").is_file():
                client = Mirror(home).client
                experiments = [one.experiment_id for one in client.search_experiments()]
                found = [run for run in client.search_runs(experiments) if run.info.status == "FINISHED"]
        assert [run.info.run_name for run in found] == ["ours·demo·tiny·s0"]
        maker.store.cell(cells[1]).fail("failed", "loss became nan")
        ended(cells[1])
    assert told.notes == ["MLflow runs: 1 created, 0 updated, 2 unchanged; cells without a result yet: 0"]
    assert len(Mirror(home).client.search_runs(experiments)) == 3


@pytest.mark.slow
def test_an_interrupted_run_is_logged_so_far(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    maker, told = StoreMaker(tmp_path), Silent()
    cell = maker.cell("ours", {"accuracy": 90.0}, metrics=ONE)
    stamp = maker.invocation([cell, maker.cell("ours", seed=1, metrics=ONE)])
    Mirror(tmp_path)  # a fresh database takes longer to make than an interrupted run waits

    def interrupted() -> None:
        with logged(tmp_path, None, None, stamp, told) as ended:
            ended(cell)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert told.notes == []
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert f"--run {stamp} --with-parent" not in listed


@pytest.mark.slow
def test_an_unusable_database_is_one_note_of_a_run(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    maker, told = StoreMaker(tmp_path), Silent()
    cells = [maker.cell("ours", {"accuracy": 90.0}, seed=seed, metrics=ONE) for seed in range(3)]
    with logged(tmp_path, None, "sqlite:////proc/nowhere/mlflow.db", maker.invocation(cells), told) as ended:
        for cell in cells:
            ended(cell)
    (note,) = told.notes
    assert note.startswith("MLflow: ")
    assert "/proc/nowhere" in note


def answers(address: str, host: str | int, origin: str = "") -> int:
    """The status of an answer to a request under another name; with an origin it is one that changes something."""
    host = f"127.0.0.1:{host}" if isinstance(host, int) else host
    headers = {"Host": host, **({"Origin": origin, "Content-Type": "application/json"} if origin else {})}
    try:
        return int(urllib.request.urlopen(urllib.request.Request(address, b"{}" if origin else None, headers)).status)
    except urllib.error.HTTPError as error:
        return error.code


class Server:
    """MLflow's own tracking server, on SQLite; started again it has what it had."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "Server":
        options = ["--backend-store-uri", f"sqlite:///{self.folder}/server.db", "--port", str(self.port)]
        options += ["--artifacts-destination", str(self.folder / "artifacts"), "--workers", "1"]
        self.log = (self.folder / "server.txt").open("a")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *options], cwd=self.folder, stdout=self.log, stderr=self.log,
            env={**environment(self.folder), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}, start_new_session=True,
        )  # fmt: skip
        for _ in range(3000):
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=10)
            except OSError:
                assert self.process.poll() is None, (self.folder / "server.txt").read_text()
                time.sleep(0.1)
            else:
                break
        return self

    def __exit__(self, *_: object) -> None:
        os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait(30)
        self.log.close()


@pytest.mark.slow
def test_a_server_gets_everything_and_its_absence_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    server = Server(tmp_path)
    home, place = tmp_path / "home", few_birds(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    # Nobody is there: the cell is done all the same, and the reader is told what to do later.
    done = called(home, "run", "--methods", "constant", "--no-controls", *QUICK, "--data-root", str(place))
    assert done.returncode == 0, done.stderr
    assert "1 of 1 cells done" in done.stdout
    assert f"MLflow: no answer from {server.uri}" in done.stdout
    assert "the results are safe, `python -m bench sync` tries again" in done.stdout
    late = called(home, "sync", "--tracking-uri", server.uri)
    assert (late.returncode, late.stdout) == (1, "")
    monkeypatch.undo()
    with server:
        said = called(home, "sync", "--tracking-uri", server.uri)
        assert said.stdout.splitlines()[-1].startswith("MLflow runs: 2 created"), said.stdout + said.stderr
        client = Mirror(home, server.uri).client
        experiment = client.get_experiment_by_name("partbench/default")
        (run,) = [one for one in client.search_runs([experiment.experiment_id]) if "bench.cell" in one.data.tags]
        assert run.info.run_name == "constant·cub·s0"
        assert {item.path for item in client.list_artifacts(run.info.run_id)} >= {"cell.json", "result.json", "items"}
        assert list((tmp_path / "artifacts").rglob("report.md"))
        said = called(home, "ui", "--tracking-uri", server.uri)
        assert f"{server.uri}/#/experiments/{experiment.experiment_id}/runs" in said.stdout
        assert not (home / "mlflow.db").exists()


@pytest.mark.slow
def test_the_server_shows_runs_and_ends_on_interrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    home, cwd, user = (tmp_path / name for name in ("my home", "cwd", "user"))
    for folder in (home, cwd, user):
        folder.mkdir()
    monkeypatch.chdir(cwd)
    maker = StoreMaker(home)
    maker.invocation([maker.cell("ours", {"accuracy": 90.0, "consistency": 70.0, "stability": 80.0})])
    mirror = Mirror(home)
    mirror.sync(maker.store)
    (run,) = (path.parent.parent.name for path in home.glob("mlartifacts/**/report.md"))
    port = free_port()
    code = (
        "import sys; from pathlib import Path; from bench.report.mlflow import serve\n"
        "sys.exit(serve(Path(sys.argv[1]), port=int(sys.argv[2])))"
    )
    log = tmp_path / "log.txt"
    with log.open("w") as stream:
        server = subprocess.Popen(
            [sys.executable, "-c", code, str(home), str(port)],
            env={
                **environment(user),
                "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "true",
                "MLFLOW_SERVER_ALLOWED_HOSTS": "*",
                "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": "*",
            },
            stdout=stream,
            stderr=stream,
        )
    try:
        address = f"http://127.0.0.1:{port}/get-artifact?path=report.md&run_uuid={run}"
        for _ in range(4500):
            try:
                shown = urllib.request.urlopen(address, timeout=10).read().decode()
                break
            except OSError:
                assert server.poll() is None, log.read_text()
                time.sleep(0.1)
        assert "### demo" in shown
        assert answers(address, f"localhost:{port}") == answers(address, "127.0.0.1:6006") == 200
        # Names that lead here by DNS, and addresses of the network.
        for name in ("evil.example", f"evil.example:{port}", "localhost.evil.example", f"192.168.0.7:{port}"):
            assert answers(address, name) == 403, name
        assert answers(f"http://127.0.0.1:{port}/", "evil.example") == 403
        assert answers(api := f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/create", port, "http://x.y") == 403
        assert answers(api, port, f"http://127.0.0.1:{port}") != 403
        server.send_signal(signal.SIGINT)
        assert server.wait(120) == 0
    finally:
        server.terminate()
        server.wait(30)
    assert f"http://127.0.0.1:{port}" in log.read_text()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(address, timeout=10)
    assert list(user.iterdir()) == list(cwd.iterdir()) == []
