"""Training loops: trainer, schedules, frozen feature cache, process groups, the black box."""
