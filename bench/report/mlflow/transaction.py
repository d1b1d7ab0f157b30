"""One transaction of MLflow's database for many of its calls, each of which makes several of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient


@contextlib.contextmanager
def one_transaction(client: MlflowClient) -> Iterator[None]:
    """Let all calls of a client share a session of its database, which is committed once, at the end.

    The ten commits of a run, each flushed to the disk, take half the time of a mirror, and every session reads
    again what the one before it has written. After an error nothing of the transaction is kept; after an interrupt
    all that was written before it. A client of a server, or of an MLflow that makes its sessions in another way, has
    the transactions that it makes.
    """
    store: Any = getattr(getattr(client, "_tracking_client", None), "store", None)
    make = getattr(store, "ManagedSessionMaker", None)
    if make is None:
        yield
        return
    interrupt: BaseException | None = None
    with make(read_only=False) as session:

        @contextlib.contextmanager
        def joined(read_only: bool = True) -> Iterator[Any]:
            yield session
            session.flush()  # the next call reads what this one has written

        # Where MLflow commits within a session: the metrics of `log_batch`.
        session.commit, commit = session.flush, session.commit
        store.ManagedSessionMaker = joined
        try:
            yield
        except (KeyboardInterrupt, GeneratorExit, SystemExit) as error:
            interrupt = error
        finally:
            store.ManagedSessionMaker, session.commit = make, commit
    if interrupt is not None:
        raise interrupt
