"""What commands do where only some of dyndet's extras are installed."""

from __future__ import annotations

import json
from importlib.metadata import packages_distributions

import click
import pytest
from packaging.utils import canonicalize_name

from dynamicdet.extras import NOT_FOR_USERS, distribution_of, extras
from dyndet_builder.cli import _COMMANDS, dyndet
from dyndet_builder.cli.needs import NEEDS
from tests.support.light_install import LightInstall, brought, light_install
from tests.support.reach import MODULES, late_imports, needs

_IMAGES, _NEW = ("--images", "photos"), ("-o", "new")
# One line for each command that needs an extra, complete enough to begin its work.
_LINES = [
    ["build", "--target-latency", "50%"],
    ["inspect", "a.onnx"],
    ["info", "dy-yolov7"],
    ["export", "a.pt", *_IMAGES, *_NEW],
    ["quantize", "bundle", "new", *_IMAGES],
    ["compose", "b", "-o", "f.onnx"],
    ["engines", "bundle"],
    ["render", "bundle", "new"],
    ["serve", "models"],
    ["deploy", "render", "models", "new"],
    ["calibrate", "--target-latency", "50%", *_IMAGES, "--url", "127.0.0.1:1"],
    ["follow", "models"],
    ["tenant", "list", "models"],
    ["tune", "models", *_IMAGES],
    ["verify", "bundle", *_IMAGES],
    ["compose", "bundle", "-o", "one.onnx"],
    ["bench", "sweep", "models", *_IMAGES],
    ["bench", "plot", "swept", *_NEW],
    ["bench", "serving", "bundle", *_IMAGES],
    ["bench", "frontier", "bundle", "--static", "s", "--data", "val", *_NEW],
    ["bench", "load", "models", *_IMAGES],
    ["bench", "overhead", "models", *_IMAGES],
    ["bench", "client", "models", *_IMAGES],
    ["pair", "a.onnx", "b.onnx", *_IMAGES],
    ["train", "detectors", "data", *_NEW],
    ["train", "router", "a.safetensors", "data"],
    ["evaluate", "a.pt", "--data", "data"],
    ["demo"],
    ["try", "models"],
]
_PROGRAM = """
import contextlib, io, json, sys
import click
from dyndet_builder.cli import dyndet, run

def typed(words):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        return [words, run(dyndet, words), out.getvalue(), err.getvalue()]

def helped(words, command):
    yield typed([*words, "-h"])
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            yield from helped([*words, name], command.get_command(click.Context(command), name))

print(json.dumps([[*helped([], dyndet)], [typed(words) for words in json.loads(sys.argv[1])]]))
"""
# What a command imports only for some of its options.
_OPTIONAL = {
    "dyndet_builder.cli.bench.sweep": {"dyndet_builder.evaluation.evaluate"},  # --data
    "dyndet_builder.cli.pair_options": {"dyndet_builder.pairing.export"},  # --small and --large
}


@pytest.fixture(scope="module")
def client_alone(tmp_path_factory: pytest.TempPathFactory) -> LightInstall:
    return light_install(tmp_path_factory.mktemp("light") / "site-packages")


def test_without_any_extra_every_help_works_and_every_command_names_its_extras(client_alone: LightInstall) -> None:
    done = client_alone.run("-c", _PROGRAM, json.dumps([*_LINES, ["doctor"], ["doctor", "--check", "train"]]))
    helps, answers = json.loads(done.stdout)
    assert {" ".join(words[:-1]) for words, *_ in helps} >= {"", *_COMMANDS, *NEEDS}
    assert [(words, err) for words, status, out, err in helps if status or not out.startswith("Usage:")] == []
    *answers, (_, status, shown, _), (_, checked, _, _) = answers
    assert (status, checked) == (0, 4) and "lacks" in shown and "[train]" in shown
    for words, status, _, err in answers:
        name = " ".join(words[:2]) if " ".join(words[:2]) in NEEDS else words[0]
        assert status == 4 and f"[{','.join(NEEDS[name])}]'` installs it" in err and err.count("\n") == 1, (words, err)
    assert {name.partition(" ")[0] for name, extra in NEEDS.items() if extra} == {words[0] for words in _LINES}


def test_shells_complete_without_any_extra(client_alone: LightInstall) -> None:
    def completed(typed: str, word: int) -> list[str]:
        asked = {"_DYNDET_COMPLETE": "bash_complete", "COMP_WORDS": typed, "COMP_CWORD": str(word)}
        return client_alone.run("-m", "dyndet", **asked).stdout.split()

    assert completed("dyndet ex", 1) == ["plain,export"]
    assert completed("dyndet export --prec", 2) == ["plain,--precision"]
    assert completed("dyndet bench sw", 2) == ["plain,sweep"]


def _commands() -> dict[str, str]:
    """The module of each command, by its name in `NEEDS`."""
    found = {name: module for name, (module, _) in _COMMANDS.items()}
    for folder in ("bench", "train"):
        group = dyndet.get_command(click.Context(dyndet), folder)
        assert isinstance(group, click.Group)
        found |= {f"{folder} {name}": f"dyndet_builder.cli.{folder}.{name}" for name in group.commands}
    return {name: module for name, module in found.items() if name in NEEDS}


def _late(module: str) -> set[str]:
    """What a command imports as it runs, also through the modules of the command line that it shares with others."""
    seen: set[str] = set()
    waiting, found = [module], set()
    shared = {other for other in MODULES if other.startswith("dyndet_builder.cli.")}
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        text = MODULES[name].read_text()
        waiting += [other for other in shared if f"from {other} import" in text]
        found |= late_imports(name) - shared - _OPTIONAL.get(name, set())
    return found


def test_a_command_needs_only_what_its_extras_bring() -> None:
    """What its modules import as they load and as they run."""
    known = [(top, {canonicalize_name(one) for one in found}) for top, found in packages_distributions().items()]
    bring = {names: {top for top, found in known if found & brought(*names)} for names in set(NEEDS.values())}
    commands = _commands()
    used = {name: set().union(*map(needs, {module, *_late(module)})) for name, module in commands.items()}
    beyond = {name: sorted(tops - bring[NEEDS[name]]) for name, tops in used.items()}
    assert {name: tops for name, tops in beyond.items() if tops} == {}
    assert {name.partition(" ")[0] for name in commands} == set(_COMMANDS)
    # And a command that names extras needs one.
    assert {name for name, tops in used.items() if NEEDS[name] and not tops - bring[()]} == set()


def test_every_command_says_what_it_needs() -> None:
    assert {name.partition(" ")[0] for name in NEEDS} == set(_COMMANDS)
    assert {extra for names in NEEDS.values() for extra in names} <= set(extras()) - set(NOT_FOR_USERS)


def test_modules_lead_to_the_distributions_that_the_extras_name() -> None:
    known = packages_distributions()
    for name, requirements in extras().items():
        for package in {canonicalize_name(one.name) for one in requirements} & brought(name):
            tops = [top for top, found in known.items() if package in {canonicalize_name(one) for one in found}]
            if name not in NOT_FOR_USERS and not package.startswith(("opentelemetry-", "tensorrt-rtx-cu12-libs")):
                assert package in {distribution_of(top) for top in tops}, (package, tops)
