"""Running cells: inputs, evaluation, limits, launchers, status."""
