"""Fills in the templates of `dyndet_templates`: configurations, deployments and scripts."""

from __future__ import annotations

import math
from pathlib import Path

import jinja2

from dynamicdet.errors import DyndetError
from dyndet_builder.quoting import FILTERS, Quoted
from dyndet_templates import TEMPLATES as TEMPLATES


def fill(template: Path, /, **values: object) -> str:
    """A template filled with values. It may include templates from its own folder and from `TEMPLATES`.

    A template can insert finite numbers as they are, and any other value only through a filter that quotes it for the
    language of the file: one of `dyndet_builder.quoting`, under the name of its function. Raises DyndetError if it
    inserts a value without one, or uses a value that is not given.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, TEMPLATES]),
        undefined=jinja2.StrictUndefined,
        finalize=_quoted,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters.update(FILTERS)
    try:
        return environment.get_template(template.name).render(values)
    except jinja2.TemplateError as error:
        raise DyndetError(f"template {template} cannot be filled in: {error}") from error


def _quoted(value: object) -> object:
    """What a template may insert. Jinja calls it for each `{{ }}`, also for those of included templates."""
    if isinstance(value, jinja2.Undefined | Quoted):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return value
    raise jinja2.TemplateRuntimeError(
        f"it inserts {value!r}, which is not quoted; use a filter such as yaml or shell ({', '.join(FILTERS)})"
    )
