"""One run against a server: workloads, perf_analyzer, the open loop, rounds, counters and their records."""
