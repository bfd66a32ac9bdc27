"""The report of `dyndet pair`: a page, a summary, JSON and a picture."""
