"""The report of a sweep: facts, findings, tables and plots, as HTML, Markdown and CSV."""
