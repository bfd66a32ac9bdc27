"""Finds thresholds, topologies and settings by measuring a served detector."""
