"""Training: phased loop, schedules, black box, frozen feature cache, process groups."""
