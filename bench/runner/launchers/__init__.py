"""Runs planned cells: in this process, in local processes, on a Ray cluster, under Slurm."""
