"""Programs that tests start: processes that do not outlive a failed test, a receiver of spans, a browser."""
