"""A served detector under load: arrivals over time, what was answered in time, and what it cost in AP."""
