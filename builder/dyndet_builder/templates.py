"""Fills in the templates of `dyndet_templates`: configurations, deployments and scripts."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import jinja2
from google.protobuf import text_encoding

import dyndet_templates

TEMPLATES = Path(dyndet_templates.__file__).parent


def fill(template: Path, /, **values: object) -> str:
    """A template filled with values. It may include templates from its own folder and from `TEMPLATES`.

    Additional filters: `quoted` (a string in a config.pbtxt), `shell` (a word of a shell command), `comment` (text on
    one line), `tojson`. It is an error if the template uses a value that is not given.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, TEMPLATES]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters["quoted"] = _quoted
    environment.filters["shell"] = shlex.quote
    environment.filters["comment"] = lambda text: " ".join(str(text).split())
    # Not jinja's own filter, which escapes < and > for HTML.
    environment.filters["tojson"] = json.dumps
    return environment.get_template(template.name).render(values)


def _quoted(text: str) -> str:
    return f'"{text_encoding.CEscape(text.encode(), as_utf8=False)}"'
