"""``python -m bench``."""

from bench.launch.command import tie_to_parent

if __name__ == "__main__":
    tie_to_parent()
    from bench.cli import main

    main()
