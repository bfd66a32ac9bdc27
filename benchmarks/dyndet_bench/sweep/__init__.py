"""Thresholds x loads x batches of one detector, their record, and comparisons with another record or the paper."""
