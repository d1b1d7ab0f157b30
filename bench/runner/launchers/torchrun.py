"""Entry point of torchrun for one machine: ``python -m bench.runner.launchers.torchrun N FOLDER [options of cell]``."""

from __future__ import annotations

import os
import sys

from bench.runner.launchers.subprocess_job import PARENT, tie_to_parent


def main() -> None:
    """Run the cell in N processes; the exit code is that of the first that failed, as in a shell."""
    tie_to_parent()
    os.environ[PARENT] = str(os.getpid())  # the processes die with this one
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    count, *rest = sys.argv[1:]
    try:
        run.main(["--standalone", "--nproc-per-node", count, "-m", "bench", "cell", *rest])
    except ChildFailedError as error:
        _, first = error.get_first_failure()
        sys.stderr.write(f"rank {first.local_rank} of {count} ended first, with {first.exitcode}\n")
        sys.exit(first.exitcode if first.exitcode > 0 else 128 - first.exitcode)
    except SignalException as error:
        sys.exit(128 + error.sigval)


if __name__ == "__main__":
    main()
