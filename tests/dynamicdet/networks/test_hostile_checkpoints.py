"""Checkpoints of others: nothing in them is believed, so none needs more memory than a network has or ends in a trace.

Property tests change bytes of small files; whoever reads them gets what was written, or one sentence.
"""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import dynamicdet
from dynamicdet.errors import CheckpointError, InputError
from dynamicdet.networks import published
from dynamicdet.networks.architectures import ARCHITECTURES
from dynamicdet.networks.network import DynamicDetector
from dynamicdet.networks.safetensors_header import read_header
from dynamicdet.networks.torch_files import open_torch_file
from dyndet_builder.cli import dyndet, run
from tests.support.hostility.files import HOSTILE
from tests.support.published_file import as_published
from tests.support.small_network import NAME, SMALL

NAMES = ("bird", "cat")
TENSORS = {"a": torch.arange(12.0).view(4, 3), "b": torch.ones(3, dtype=torch.float16), "c": torch.tensor(7)}
MOST_MB = 300
# Loads every file of a folder and prints, by name, the error and the growth of the largest memory so far.
CHILD = """
import json, resource, sys
from pathlib import Path
import dynamicdet
from dynamicdet.errors import CheckpointError
from dynamicdet.networks import checkpoints

def most():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

start, found = most(), {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        dynamicdet.load(path)
    except CheckpointError as error:
        found[path.name] = (str(error), most() - start)
print(json.dumps(found))
"""


def test_hostile_files_are_refused_before_they_take_memory(tmp_path: Path) -> None:
    for name, (write, _) in HOSTILE.items():
        write(tmp_path / name)
    child = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path)], capture_output=True, text=True, check=True)
    found = json.loads(child.stdout)
    for name, (_, complaint) in HOSTILE.items():
        message, grown_mb = found[name]
        assert re.search(complaint, message), (name, message)
        assert message.isprintable() and len(message) < 500
        assert grown_mb < MOST_MB, name


@pytest.mark.parametrize("name", ["expanded", "long header"])
def test_commands_refuse_them_with_one_sentence(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "network"
    HOSTILE[name][0](path)
    assert run(dyndet, ["info", str(path)]) == 2
    assert re.search(HOSTILE[name][1], capsys.readouterr().err.replace("\n", " "))


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """A quick network that counts as a published one."""
    one = replace(SMALL.first, head_conv="conv")
    with pytest.MonkeyPatch.context() as patch:
        spec = replace(SMALL, first=one, second=one)
        patch.setitem(ARCHITECTURES, NAME, spec)
        patch.setattr(published, "PUBLISHED", (spec,))
        yield


@pytest.fixture(scope="module")
def network(small: None) -> DynamicDetector:
    torch.manual_seed(0)
    return dynamicdet.create(NAME, 2, NAMES)


@pytest.mark.parametrize("zipped", [True, False])
def test_both_forms_of_torch_save_are_read(zipped: bool, network: DynamicDetector, tmp_path: Path) -> None:
    """With what else a training may have saved, and tensors that are views or parameters."""
    weights = {name: torch.nn.Parameter(one, one.is_floating_point()) for name, one in as_published(network).items()}
    odd = next(name for name, one in weights.items() if one.ndim == 4 and one.shape[0] > 1 and one.shape[1] > 1)
    weights[odd] = weights[odd].detach().transpose(0, 1).contiguous().transpose(0, 1)
    extra = {"epoch": 3, "optimizer": None, "best": 0.5, "note": ["é", (1, 2)], "large": 1 << 40, "done": True}
    torch.save({**extra, "model": weights}, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    found, expected = dynamicdet.load(tmp_path / "w.pt").state_dict(), network.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name].half().to(expected[name].dtype)) for name in expected)


def test_more_numbers_than_a_training_has_are_refused(network: DynamicDetector, tmp_path: Path) -> None:
    content = {"model": as_published(network), "other": torch.zeros(4 * sum(p.numel() for p in network.parameters()))}
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"it stores [0-9,]+ bytes of numbers; the weights, their average"):
        dynamicdet.load(tmp_path / "w.pt")


def test_a_layer_for_too_many_classes_is_refused(network: DynamicDetector, tmp_path: Path) -> None:
    weights = as_published(network)
    head = next(name for name in weights if name.endswith(".m.0.bias"))
    weights[head] = torch.zeros(3 * 1006)
    torch.save({"model": weights}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="is 3018, so it does not predict 1 to 1,000 classes"):
        dynamicdet.load(tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("weight", "number", "complaint"),
    [
        (
            "router.layer1.weight",
            float("nan"),
            r"has 1 NaN or infinite numbers in 1 of \d+ weights, the first in router",
        ),
        ("backbone1.stem.conv.norm.bias", float("inf"), "the first in backbone1.stem.conv.norm.bias"),
        ("backbone1.stem.conv.norm.running_var", -1.0, "norm.running_var, a variance, has numbers below 0"),
        ("anchors", 0.0, "anchors have sizes that are not above 0"),
    ],
)
def test_numbers_that_no_network_computes_with_are_named(
    weight: str, number: float, complaint: str, network: DynamicDetector, tmp_path: Path
) -> None:
    path = tmp_path / "network.safetensors"
    spoilt = dynamicdet.create(NAME, 2, NAMES)
    spoilt.state_dict()[weight].view(-1)[0] = number
    dynamicdet.save(spoilt, path)
    with pytest.raises(CheckpointError, match=complaint):
        dynamicdet.load(path)


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        ((), "at least one class"),
        (tuple(map(str, range(1001))), "at most 1,000"),
        (("cat", "cat"), "classes 0 and 1 have the same name: 'cat'"),
        (("cat", "\x1b[31mdog"), r"class 1 has characters that cannot be printed: '\\x1b\[31mdog'"),
        (("cat", "x" * 201), "class 1 has 201 characters"),
        (("cat", ""), "class 1 has 0 characters"),
    ],
)
def test_class_names_are_checked_whenever_a_network_is_made_saved_or_loaded(
    names: tuple[str, ...], complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=complaint):
        dynamicdet.create(NAME, len(names), names)
    network, path = dynamicdet.create(NAME, 2, NAMES), tmp_path / "network.safetensors"
    dynamicdet.save(network, path)
    header, _ = read_header(path)
    network.class_names = names
    with pytest.raises(InputError, match=complaint):
        dynamicdet.save(network, path)
    save_file(load_file(path), path, metadata=header | {"class_names": json.dumps(names)})
    with pytest.raises(CheckpointError, match="damaged header" if not names else complaint):
        dynamicdet.load(path)


@pytest.mark.parametrize("size", ["0", "-64", "4128", "96.0", "9" * 5000, " 64", "6_4", "٦٤"])
def test_input_sizes_that_no_network_takes_are_refused(size: str, network: DynamicDetector, tmp_path: Path) -> None:
    path = tmp_path / "network.safetensors"
    dynamicdet.save(network, path)
    header, _ = read_header(path)
    save_file(load_file(path), path, metadata=header | {"input_size": size})
    with pytest.raises(CheckpointError, match=r"positive multiple of 32, at most 4096|input size cannot be read"):
        dynamicdet.load(path)


def test_weights_of_another_kind_are_refused(network: DynamicDetector, tmp_path: Path) -> None:
    path = tmp_path / "network.safetensors"
    dynamicdet.save(network, path)
    header, tensors = read_header(path)[0], load_file(path)
    save_file(tensors | {"router.layer2.bias": torch.zeros(1, dtype=torch.int64)}, path, metadata=header)
    with pytest.raises(CheckpointError, match=r"router\.layer2\.bias has numbers of the type int64, expected float32"):
        dynamicdet.load(path)


def test_a_changed_number_is_noticed(network: DynamicDetector, tmp_path: Path) -> None:
    path = tmp_path / "network.safetensors"
    dynamicdet.save(network, path)
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="content has changed since it was written"):
        dynamicdet.load(path)


def _mutants(content: bytes, count: int, places: list[tuple[int, int]]) -> Iterator[bytes]:
    """The content with some bytes replaced, inserted, removed or copied, mostly in `places`."""
    chance = random.Random(14)
    for _ in range(count):
        mutant = bytearray(content)
        for _ in range(chance.choice((1, 1, 1, 2, 4))):
            start, end = chance.choice([*places, (0, len(mutant))])
            place = chance.randrange(start, min(end, len(mutant)))
            length = chance.choice((1, 1, 4, 30))
            other = chance.randrange(len(mutant))
            mutant[place : place + chance.choice((0, length, length))] = chance.choice(
                (chance.randbytes(length), b"", mutant[other : other + length], b"\xff" * length)
            )
            if len(mutant) < 16:
                break
        yield bytes(mutant)


def _outcomes(path: Path, mutants: Iterator[bytes], read: Callable[[Path], object]) -> Counter[str]:
    """How many were read as they had been written, and how many were refused; no other error may be raised."""
    outcomes: Counter[str] = Counter()
    for mutant in mutants:
        path.write_bytes(mutant)
        try:
            read(path)
            outcomes["read"] += 1
        except CheckpointError as error:
            assert str(error).isprintable() and len(str(error)) < 500
            outcomes["refused"] += 1
    return outcomes


@pytest.mark.parametrize("zipped", [True, False])
def test_a_changed_file_of_torch_save_is_read_as_it_was_or_refused(zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save(TENSORS, path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()

    def read(path: Path) -> None:
        with open_torch_file(path, largest=1 << 20) as file:
            names = file.content if isinstance(file.content, dict) else {}
            if names.keys() == TENSORS.keys() and all(hasattr(one, "storage") for one in names.values()):
                found = file.tensors(names)
                # The older form has no checksums.
                assert not zipped or all(torch.equal(found[name], one) for name, one in TENSORS.items())
            else:
                assert not zipped

    outcomes = _outcomes(path, _mutants(content, 1000, [(0, 400), (max(0, len(content) - 700), len(content))]), read)
    assert outcomes["refused"] > 500 and outcomes.total() == 1000


def test_a_changed_header_of_safetensors_describes_its_file_or_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(TENSORS, path, metadata={"format": "dyndet"})
    content = path.read_bytes()
    length = 8 + int.from_bytes(content[:8], "little")

    def read(path: Path) -> None:
        _, tensors = read_header(path)
        # What passes is also what the library accepts.
        assert {name: tuple(one.shape) for name, one in load_file(path).items()} == {
            name: one.shape for name, one in tensors.items()
        }

    outcomes = _outcomes(path, _mutants(content, 1000, [(0, 8), (8, length), (8, length)]), read)
    assert outcomes["refused"] > 500 and outcomes["read"] > 10


def test_a_changed_checkpoint_gives_the_same_network_or_is_refused(network: DynamicDetector, tmp_path: Path) -> None:
    path = tmp_path / "network"
    expected = {name: tensor.half().float() for name, tensor in network.state_dict().items()}
    dynamicdet.save(network, path, half=True)
    content = path.read_bytes()
    length = 8 + int.from_bytes(content[:8], "little")

    def read(path: Path) -> None:
        found = dynamicdet.load(path).state_dict()
        assert all(torch.equal(found[name], one) for name, one in expected.items())

    assert _outcomes(path, _mutants(content, 60, [(8, length)]), read)["refused"] > 30
