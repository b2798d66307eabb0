"""Benches: one per op, one for the step, the peers side by side. Run them with `python -m benchmarks.<name>` on a machine with a GPU."""
