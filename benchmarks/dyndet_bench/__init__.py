"""Measures a served dynamic detector with perf_analyzer."""
