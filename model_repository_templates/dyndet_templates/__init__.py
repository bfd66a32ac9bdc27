"""Jinja2 templates of Triton model repositories, and the Python-backend models in them."""

from pathlib import Path

TEMPLATES = Path(__file__).parent
