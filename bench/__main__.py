"""``python -m bench``."""

from bench.core.compat import keep_freed_memory
from bench.runner.launchers.subprocess_job import tie_to_parent

if __name__ == "__main__":
    tie_to_parent()
    # Here and not in the package: a program that imports it keeps its own allocator settings.
    keep_freed_memory()
    from bench.cli.main import main

    main()
