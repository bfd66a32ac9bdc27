"""Measures a served dynamic detector: perf_analyzer runs, an open-loop generator, sweeps and their reports."""
