"""MLflow on this machine: its database file and its server, which only this module starts."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.core.console import say
from bench.core.errors import RequestError
from bench.report.mlflow.fields import SCORES

NOT_INSTALLED = "MLflow is not installed: pip install 'mlflow>=3.13'; results are in the store"
# This machine alone: the pages ask for no password.
_HOST = "127.0.0.1"
# Seconds that a server which is asked to end may take.
_PATIENCE = 10.0
# Without these a server that is not there holds everything up for minutes; what was not mirrored is made up for.
_IMPATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}


def database(home: Path) -> Path:
    """Return the file of the mirror's database."""
    return home.resolve() / "mlflow.db"


def import_mlflow() -> None:
    """Import it without telemetry and without chatter.

    Raises:
        RequestError: if it is not installed.
    """
    if not {"MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK"} & os.environ.keys():
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = os.environ["DO_NOT_TRACK"] = "true"
    for name, value in _IMPATIENCE.items():
        os.environ.setdefault(name, value)
    try:
        import mlflow  # noqa: F401
    except ImportError as error:
        raise RequestError(NOT_INSTALLED) from error
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Its tracebacks of a database that is locked or gone; the error itself is reported in one line.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def create_database(file: Path, artifacts: str) -> None:
    """Create the database if there is none; the caller holds a lock.

    MLflow breaks a fresh database for good when two processes open it at once, or one is killed while it does. So it
    is made beside its name and renamed: a file of that name is whole.
    """
    if file.is_file():
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    unfinished = file.with_name(f".{file.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    # The class, not the client: the client would write down the working directory as the place of artifacts.
    store: Any = SqlAlchemyStore
    store(f"sqlite:///{unfinished}", artifacts).engine.dispose()
    unfinished.replace(file)


def address(server: str, experiment: str) -> str:
    """Return the URL of a suite's runs with their charts, from an MLflow server's address and the experiment's id."""
    # Ten runs are drawn: the most accurate ones, and none of the controls, which have no accuracy.
    order = f"orderByKey=metrics.%60{SCORES}%2Faccuracy%60&orderByAsc=false"
    # MLflow 3 opens in its GenAI mode, whose menu has no models; older versions ignore the parameter.
    mode = "workflowType=machine_learning"
    return f"{server.rstrip('/')}/#/experiments/{experiment}/runs?compareRunsMode=CHART&{order}&{mode}"


def serve(
    home: Path,
    port: int = 5000,
    uri: str | None = None,
    page: Callable[[str], str] = str,
) -> int:
    """Show the mirror in MLflow's own interface until Ctrl-C.

    Args:
        home: ``BENCH_HOME``.
        port: to listen on.
        uri: database URI; by default SQLite in ``home``.
        page: maps the server's address to that of the first page.

    Returns:
        The server's exit code; 0 when it was stopped by Ctrl-C.

    Raises:
        RequestError: if there is no mirror yet, or the port is taken.
    """
    file = database(home)
    if uri is None and not file.is_file():
        raise RequestError(f"no {file} yet; run something first: python -m bench run --methods ours --datasets demo")
    import_mlflow()
    _check_free(port)
    artifacts = (file.parent / "mlartifacts").as_uri()
    options = ["--backend-store-uri", uri or f"sqlite:///{file}"]
    options += ["--default-artifact-root", artifacts, "--no-serve-artifacts"]
    options += ["--host", _HOST, "--port", str(port), "--workers", "1", "--uvicorn-opts", "--log-level warning"]
    # A page elsewhere must not read results by giving this address a name of its own (DNS rebinding). Other ports are
    # for tunnels, which end here under a name of this machine.
    names = (_HOST, "localhost")
    options += ["--allowed-hosts", ",".join(f"{name}{port}" for name in names for port in ("", ":*"))]
    options += ["--cors-allowed-origins", ",".join(f"http://{name}:{port}" for name in names)]
    # Job runners are for MLflow's judges of language models: seven processes that a viewer does not need.
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PYTHONWARNINGS": "ignore"}
    # Settings for a server behind a proxy must not open this one.
    environment |= {"MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "false", "MLFLOW_SERVER_X_FRAME_OPTIONS": "SAMEORIGIN"}
    say(f"MLflow shows the results (Ctrl-C ends it); to compare methods, open\n  {page(f'http://{_HOST}:{port}')}")
    # A group of its own: a signal then reaches all the server's processes, and each of them once.
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", *options],
        cwd=file.parent,
        env=environment,
        start_new_session=True,
    )
    return _attend(server)


def _attend(server: subprocess.Popen[bytes]) -> int:
    """Wait for the server; pass Ctrl-C and termination on to its whole group."""
    stopped = threading.Event()

    def stop(_number: int, _frame: Any) -> None:
        # The server answers an interrupt with tracebacks, and termination with a quiet end.
        stopped.set()
        _signal_group(server, signal.SIGTERM)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        while server.poll() is None and not stopped.wait(0.2):
            pass  # a wait for the process itself would end only with it
        code = server.wait(_PATIENCE if stopped.is_set() else None)
    except subprocess.TimeoutExpired:
        _signal_group(server, signal.SIGKILL)
        code = server.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0 if stopped.is_set() else code


def _signal_group(server: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, number)


def _check_free(port: int) -> None:
    with socket.socket() as trial:
        # As the server does it: a port that was left a moment ago is free.
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((_HOST, port))
        except OSError as error:
            raise RequestError(f"{_HOST}:{port} cannot be used ({error.strerror}); try --port {port + 1}") from error
