"""Drivers: one folder each; they see the contract in `gateway.ports` and nothing else."""
