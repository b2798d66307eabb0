"""Benchmarks, one a file: the files users download become episodes; where a benchmark has its own score, that too."""
