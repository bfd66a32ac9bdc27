"""Quotes text for the languages of rendered files: one function for each language.

The functions that give `Quoted` are for the place where a language reads its text, and templates use them as filters.
Those that give plain text (`promql`, `pattern`, `go_template`, `grafana`) quote for a language inside another one, so
what they give still needs the function of the outer language. All of them are in `FILTERS`.

Each function raises InputError for text that its language cannot hold.
"""

from __future__ import annotations

import csv
import functools
import io
import json as json_module
import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from google.protobuf import text_encoding

from dynamicdet.errors import InputError
from dynamicdet.redaction import public_image
from dynamicdet.text import markdown as markdown_text
from dynamicdet.text import printable

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PLACE = re.compile(r"(/(?!\.\.?(?:/|$))[A-Za-z0-9_.-]+)+")
_DOMAIN = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_PART = r"[a-z0-9]+(?:(?:[.]|_|__|-+)[a-z0-9]+)*"
IMAGE = re.compile(
    rf"(?:(?:{_DOMAIN}(?:\.{_DOMAIN})*)(?::(?P<port>[0-9]{{1,5}}))?/)?(?P<path>{_PART}(?:/{_PART})*)"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[0-9a-f]{32,128})?"
)
"""a reference to an image, as Docker reads it: host and port, path, tag, digest"""
_PROMQL_PLAIN = re.compile(r"[A-Za-z0-9 _.,:;/|+*=()?!@^-]")
_JOINER = "\N{WORD JOINER}"


class Quoted(str):
    """Text that is quoted for the place where it goes. Whatever is made from it is plain text again."""

    __slots__ = ()


def shell(text: object) -> Quoted:
    """A word of a command: in a script for bash, in a line to copy into bash, ksh or zsh, and in a comment of either.

    It is one line of printable characters. It is not for other shells, such as /bin/sh, if the text is not printable.
    """
    word = str(text)
    try:
        word.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise _refused(word, "is not valid Unicode") from error
    if "\0" in word:
        raise _refused(word, "holds a NUL character, which no command can have")
    if not word.isprintable():
        return Quoted(f"$'{''.join(map(_ansi_c, word))}'")
    return Quoted(f"'{word}'" if re.fullmatch("=[^']*", word) else shlex.quote(word))  # zsh reads =ls as a path


def _ansi_c(char: str) -> str:
    """A character inside of $'...', bytes that are no UTF-8 as they were."""
    if char.isprintable() and char not in "\\'!":
        return char
    return "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))


def command(words: Iterable[object]) -> Quoted:
    """A whole command, of the same kind as `shell`."""
    return Quoted(" ".join(map(shell, words)))


def mount(source: object, target: str, *, read_only: bool = False) -> tuple[str, str]:
    """The option of docker that mounts a folder or a file, as words that are not yet quoted for a shell."""
    if ":" not in str(source):
        return "-v", f"{source}:{target}{':ro' if read_only else ''}"
    row = io.StringIO()
    fields = ("type=bind", f"source={source}", f"target={target}", *(("readonly",) if read_only else ()))
    csv.writer(row, lineterminator="").writerow(fields)
    return "--mount", row.getvalue()


def comment(text: object) -> Quoted:
    """Text in a comment that ends with its line (shell, YAML, Dockerfile, pbtxt), or in a plain text file.

    All that is not printable, such as every kind of line break, appears as an escape.
    """
    return Quoted(printable(text))


def python(text: str) -> Quoted:
    """A string in a Python program."""
    return Quoted(ascii(text))


def heredoc(text: str, delimiter: str) -> Quoted:
    """The lines of a here-document of a shell script or a Dockerfile, whose delimiter is quoted there."""
    if delimiter in text.splitlines() or not text.endswith("\n") or "\0" in text:
        raise _refused(text, f"cannot stand in a here-document that ends at {delimiter}")
    return Quoted(text)


def dockerfile(value: str | Iterable[str]) -> Quoted:
    """A value of ENV, ARG or LABEL in a Dockerfile; of several words, the JSON form of COPY or ADD.

    It is not for RUN (see `shell`), and not for the JSON form of ENTRYPOINT and CMD (see `json`): Docker replaces
    variables in neither.
    """
    if isinstance(value, str):
        return Quoted('"' + _escaped(_printable(value), '\\"$') + '"')
    words = tuple(value)
    for word in words:
        if re.search(r"[*?[]", _printable(word)):
            raise _refused(word, "would name several files in a Dockerfile")
    return json([_escaped(word, "\\\"'$") for word in words])


def _escaped(text: str, active: str) -> str:
    return "".join(f"\\{char}" if char in active else char for char in text)


def _printable(text: str) -> str:
    if not text.isprintable():
        raise _refused(text, "has characters that a Dockerfile cannot hold")
    return text


@functools.cache
def _flow() -> Any:
    """YAML on one line of ASCII with every text in double quotes, so that none is taken for a number or a boolean."""
    import yaml as yaml_module  # here, because every command quotes words, also where PyYAML is not installed

    class Flow(yaml_module.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    def represent(dumper: Flow, text: str) -> yaml_module.ScalarNode:
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')

    Flow.add_representer(str, represent)
    Flow.add_representer(Quoted, represent)
    return functools.partial(yaml_module.dump, Dumper=Flow)


def yaml(value: object) -> Quoted:
    """A text, a number, a boolean, a list or a mapping in a YAML file, as a value or as a key."""
    text: str = _flow()(
        _texts(value, lambda text: text),
        default_flow_style=True,
        sort_keys=False,
        width=float("inf"),
        allow_unicode=False,
    )
    return Quoted(text.removesuffix("\n").removesuffix("\n..."))


def compose(value: object) -> Quoted:
    """`yaml` for a value of a compose file, in which Docker replaces variables."""
    return yaml(_texts(value, lambda text: text.replace("$", "$$")))


def kubernetes(value: object) -> Quoted:
    """`yaml` for the command, arguments, variables and exec probes of a container: Kubernetes replaces $(VARIABLE)."""
    return yaml(_texts(value, dollars))


def dollars(text: str) -> str:
    """Text in which Kubernetes replaces no variable, for a word that also has one; it still needs `yaml`."""
    return text.replace("$", "$$")


def _texts(value: object, change: Callable[[str], str]) -> object:
    """The value with all of its texts changed, and tuples as lists."""
    if isinstance(value, str):
        return change(_unicode(value))
    if isinstance(value, Mapping):
        return {_texts(key, change): _texts(one, change) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_texts(one, change) for one in value]
    return value


def json(value: object) -> Quoted:
    """A value in a JSON file, and the JSON form of ENTRYPOINT and CMD in a Dockerfile."""
    return Quoted(json_module.dumps(value, allow_nan=False))


def pbtxt(text: str) -> Quoted:
    """A string in a config.pbtxt."""
    return Quoted(f'"{text_encoding.CEscape(_unicode(text).encode(), as_utf8=False)}"')


def identifier(text: str) -> Quoted:
    """A name without quotes: of an environment variable, or of a value of an enumeration in a config.pbtxt."""
    if not _IDENTIFIER.fullmatch(text):
        raise _refused(text, "is not a name of letters, digits and '_'")
    return Quoted(text)


def place(text: str) -> Quoted:
    """An absolute path of a container without quotes: in a Dockerfile, where some instructions take none."""
    if not _PLACE.fullmatch(text):
        raise _refused(text, "is not an absolute path of letters, digits, '.', '_' and '-'")
    return Quoted(text)


def image(text: str) -> Quoted:
    """A reference to an image without quotes: in FROM of a Dockerfile."""
    if not IMAGE.fullmatch(text):
        raise _refused(public_image(text), "is not a reference to an image")
    return Quoted(text)


def numbers(values: Iterable[int]) -> Quoted:
    """Whole numbers with commas between them, in a config.pbtxt or on a command line."""
    return Quoted(", ".join(f"{value:d}" for value in values))


def promql(text: str) -> str:
    """A string in PromQL: a label's value or, of a `pattern`, a regular expression.

    Characters that mean something to what carries PromQL (Grafana, Go templates, shells) appear as escapes.
    """
    return '"' + "".join(map(_promql_char, _unicode(text))) + '"'


def _promql_char(char: str) -> str:
    if _PROMQL_PLAIN.fullmatch(char):
        return char
    if char in '\\"':
        return f"\\{char}"
    return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"


def pattern(*texts: str) -> str:
    """A regular expression of Prometheus (RE2) that matches these texts alone, for `promql` or a relabelling."""
    return "|".join(map(re.escape, texts))


def go_template(text: str) -> str:
    """Text in the labels and annotations of an alert, which Prometheus expands as Go templates."""
    return _unicode(text).replace("{", '{{"{"}}')


def grafana(text: str) -> str:
    """Text in titles and legends of a dashboard.

    Grafana replaces $name, [[name]] and {{label}} there and knows no escape, so an invisible character parts them.
    """
    return re.sub(r"\$|\{(?=\{)|\[(?=\[)", lambda match: match[0] + _JOINER, printable(text))


def markdown(text: object) -> Quoted:
    """Text in a Markdown file: in paragraphs, headings, lists and tables."""
    return Quoted(markdown_text(text))


def prose(text: str) -> Quoted:
    """A sentence of dyndet in a Markdown file: what it has in backticks is code, the rest is text."""
    parts = text.split("`")
    quoted = "".join(_code(part) if index % 2 else markdown(part) for index, part in enumerate(parts))
    return Quoted(quoted.replace("&#32;", " ").strip())  # the spaces beside code are inside of the sentence


def _code(text: str) -> str:
    return f"`{printable(text)}`" if text.strip() else markdown_text(text)


def _unicode(text: str) -> str:
    if re.search("[\ud800-\udfff]", text):
        raise _refused(text, "is not valid Unicode")
    return text


def _refused(text: str, reason: str) -> InputError:
    return InputError(f"{printable(text, limit=200)!r} {reason}; give another name")


FILTERS: Mapping[str, Callable[..., str]] = {
    function.__name__: function
    for function in (
        shell,
        command,
        comment,
        python,
        heredoc,
        dockerfile,
        yaml,
        compose,
        kubernetes,
        json,
        pbtxt,
        identifier,
        place,
        image,
        numbers,
        promql,
        pattern,
        go_template,
        grafana,
        markdown,
        prose,
    )
}
"""The functions as filters of templates."""
