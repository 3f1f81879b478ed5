"""Machines that do not exist: for demos, tests and benchmarks."""
