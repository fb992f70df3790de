"""Benchmarks for users: `python -m bench --help`. Every figure is a ratio of things measured side by side."""
