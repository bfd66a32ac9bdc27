"""Published checkpoints: names, shapes, and outputs against a second implementation that runs on the published names.

The reference below is written from the published layer numbers alone and shares nothing with our networks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import dynamicdet
from dynamicdet.errors import CheckpointError, InputError
from dynamicdet.networks.architectures import ARCHITECTURES
from dynamicdet.networks.blocks import space_to_depth
from dynamicdet.networks.network import DynamicDetector
from dynamicdet.networks.published_keys import PUBLISHED, anchor_keys, key_map
from tests.support.published_file import as_published

NAMES = [spec.name for spec in PUBLISHED]
# First 16 hex digits of the SHA-256 of the sorted lines "key AxBxC\n" of the published files.
FINGERPRINTS = {
    "dy-yolov7": (1146, "9184156bc5b94ad1"),
    "dy-yolov7-x": (1302, "27f5b25069e7a7cf"),
    "dy-yolov7-w6": (1286, "86c0e93f2b398fa9"),
}
CLASSES = 2
SIZE = 64

Weights = dict[str, Tensor]


class Reference:
    """The published network, by number; one feature list per part."""

    def __init__(self, name: str, weights: Weights) -> None:
        self.x_depth = 6 if name == "dy-yolov7-x" else 4
        self.is_x, self.is_w6 = name == "dy-yolov7-x", name == "dy-yolov7-w6"
        self.levels = 4 if self.is_w6 else 3
        self.weights = {key: value.double() for key, value in weights.items()}

    def conv(self, place: str, x: Tensor, stride: int = 1, conv: str = "conv", norm: str = "bn") -> Tensor:
        return functional.silu(self.linear(place, x, stride, conv, norm))

    def linear(self, place: str, x: Tensor, stride: int, conv: str, norm: str) -> Tensor:
        kernel = self.weights[f"{place}.{conv}.weight"]
        x = functional.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        mean, var, weight, bias = (
            self.weights[f"{place}.{norm}.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias")
        )
        return functional.batch_norm(x, mean, var, weight, bias, eps=1e-3)

    def elan(self, part: str, n: int, x: Tensor, *, dense: bool) -> tuple[Tensor, int]:
        outs = [self.conv(f"{part}.{n}", x), self.conv(f"{part}.{n + 1}", x)]
        for step in range(self.x_depth):
            outs.append(self.conv(f"{part}.{n + 2 + step}", outs[-1]))
        newest_first = outs[::-1]
        if not dense:  # c4 c2 b a, or c6 c4 c2 b a
            newest_first = [*newest_first[:-1:2], outs[0]]
        n += 2 + self.x_depth + 1  # the concatenation counts
        return self.conv(f"{part}.{n}", torch.cat(newest_first, 1)), n + 1

    def pool_down(self, part: str, n: int, x: Tensor, first: Tensor | None = None) -> tuple[list[Tensor], int]:
        p = self.conv(f"{part}.{n + 1}", functional.max_pool2d(x, 2, 2))
        q = self.conv(f"{part}.{n + 2}", x if first is None else first)
        return [self.conv(f"{part}.{n + 3}", q, 2), p], n + 5

    def backbone(self, part: str, n: int, x: Tensor, links: list[Tensor] | None = None, first4: Tensor | None = None):
        """Stem feature (W6) and the five stages' features."""
        features = []
        second = links is not None
        x = self.conv(f"{part}.{n}", x)
        stem = x
        n += 1
        for level in range(5):
            if self.is_w6 or level < 2:
                x = self.conv(f"{part}.{n}", x, 2)
                n += 1
            else:
                branches, n = self.pool_down(part, n, x, first4 if self.is_x and level == 2 else None)
                x = torch.cat(branches, 1)
            if links is not None:
                x = x + links[level]
                n += 1
            if level == 0 and not self.is_w6:
                x = self.conv(f"{part}.{n}", x)
                n += 1
            else:
                x, n = self.elan(part, n, x, dense=False)
            features.append(x)
        assert n == len({key.split(".")[1] for key in self.weights if key.startswith(f"{part}.")}) + self.blanks(second)
        return stem, features

    def blanks(self, second: bool) -> int:
        """Numbers without weights: concatenations, poolings, links and space-to-depth."""
        if self.is_w6:
            return 5 + (5 if second else 1)
        return 4 + 3 * 2 + (5 if second else 0)

    def run(self, image: Tensor) -> dict[str, Tensor | list[Tensor]]:
        folded = image
        if self.is_w6:
            rows = image.unflatten(2, (-1, 2)).unflatten(4, (-1, 2))  # (B, 3, H/2, row parity, W/2, column parity)
            folded = torch.cat([rows[:, :, :, r, :, c] for r, c in ((0, 0), (1, 0), (0, 1), (1, 1))], 1)
        stem, first = self.backbone("model_b", 1 if self.is_w6 else 0, folded)
        pooled = torch.cat([f.mean((2, 3), keepdim=True) for f in ([stem, *first] if self.is_w6 else first)], 1)
        hidden = functional.conv2d(pooled, self.weights["router.layer1.weight"], self.weights["router.layer1.bias"])
        easiness = functional.conv2d(
            hidden.relu(), self.weights["router.layer2.weight"], self.weights["router.layer2.bias"]
        ).sigmoid()
        widths = [128, 256, 512, 768, 1024] if self.is_w6 else [64, 128, 256, 512, 1024]
        if self.is_x:
            widths = [80, 160, 320, 640, 1280]
        links: list[Tensor] = []
        for level, feature in enumerate(first):
            place = f"model_b2.{level}.conv"
            y = functional.conv2d(feature, self.weights[f"{place}.weight"], self.weights[f"{place}.bias"])
            for target, piece in enumerate(y.split(widths[: level + 1], 1)):
                bigger = piece.repeat_interleave(2 ** (level - target), 2).repeat_interleave(2 ** (level - target), 3)
                if target == level:
                    links.append(bigger)
                else:
                    links[target] = links[target] + bigger
        _, second = self.backbone("model_b2", 5, folded, links, first[1])
        return {
            "easiness": easiness.flatten(),
            "easy": self.head("model_h", first[-self.levels :]),
            "hard": self.head("model_h2", second[-self.levels :]),
        }

    def spp(self, place: str, x: Tensor) -> Tensor:
        deep = self.conv(f"{place}.cv4", self.conv(f"{place}.cv3", self.conv(f"{place}.cv1", x)))
        pools = [functional.max_pool2d(deep, k, 1, k // 2) for k in (5, 9, 13)]
        deep = self.conv(f"{place}.cv6", self.conv(f"{place}.cv5", torch.cat([deep, *pools], 1)))
        return self.conv(f"{place}.cv7", torch.cat([deep, self.conv(f"{place}.cv2", x)], 1))

    def head(self, part: str, features: list[Tensor]) -> list[Tensor]:
        dense = not self.is_x
        x = self.spp(f"{part}.0", features[-1])
        mixed, n = [x], 1
        for lateral in features[-2::-1]:
            up = self.conv(f"{part}.{n}", x).repeat_interleave(2, 2).repeat_interleave(2, 3)
            side = self.conv(f"{part}.{n + 2}", lateral)
            x, n = self.elan(part, n + 4, torch.cat([side, up], 1), dense=dense)
            mixed.append(x)
        outs = [mixed.pop()]
        while mixed:
            if self.is_w6:
                branches, n = [self.conv(f"{part}.{n}", x, 2)], n + 2
            else:
                branches, n = self.pool_down(part, n, x)
            x, n = self.elan(part, n, torch.cat([*branches, mixed.pop()], 1), dense=dense)
            outs.append(x)
        raw = []
        detect = f"{part}.{n + self.levels}"
        for level, out in enumerate(outs):
            place = f"{part}.{n + level}"
            if f"{place}.rbr_dense.0.weight" in self.weights:
                dense3 = self.linear(place, out, 1, "rbr_dense.0", "rbr_dense.1")
                out = functional.silu(dense3 + self.linear(place, out, 1, "rbr_1x1.0", "rbr_1x1.1"))
            else:
                out = self.conv(place, out)
            y = functional.conv2d(
                out + self.weights[f"{detect}.ia.{level}.implicit"],
                self.weights[f"{detect}.m.{level}.weight"],
                self.weights[f"{detect}.m.{level}.bias"],
            )
            y = y * self.weights[f"{detect}.im.{level}.implicit"]
            raw.append(y.unflatten(1, (3, -1)).permute(0, 1, 3, 4, 2))
        return raw


def with_random_statistics(model: DynamicDetector) -> DynamicDetector:
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.02, 0.5)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.2)
    return model


@pytest.fixture(scope="module", params=NAMES)
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Name and file of a checkpoint in the published layout, random batch-norm statistics inside."""
    torch.manual_seed(7)
    model = with_random_statistics(dynamicdet.create(request.param, num_classes=CLASSES))
    path = tmp_path_factory.mktemp("published") / "weights.pt"
    torch.save({"model": as_published(model)}, path)
    yield request.param, path
    path.unlink()


@pytest.mark.parametrize("name", NAMES)
def test_names_and_shapes_are_those_of_the_published_file(name: str) -> None:
    with torch.device("meta"):
        ours = dynamicdet.create(name, num_classes=80).state_dict()
    spec = ARCHITECTURES[name]
    names = key_map(spec)
    assert sorted([*names.values(), "anchors"]) == sorted(ours)  # one published name for each weight of ours
    shapes = {key: tuple(ours[place].shape) for key, place in names.items()}
    for keys in anchor_keys(spec):
        shapes |= {keys.by_stride: keys.by_stride_shape, keys.pixels: keys.pixels_shape}
    lines = sorted(f"{key} {'x'.join(map(str, shape))}\n" for key, shape in shapes.items())
    assert (len(lines), hashlib.sha256("".join(lines).encode()).hexdigest()[:16]) == FINGERPRINTS[name]


@torch.no_grad()
def test_a_published_file_gives_the_published_outputs(published: tuple[str, Path]) -> None:
    """Both routes and the router agree with the reference far below what any quirk changes; easiness is flipped."""
    name, path = published
    image = torch.rand(2, 3, SIZE, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    reference = Reference(name, torch.load(path, weights_only=True)["model"]).run(image)
    model = dynamicdet.load(path).double()  # recognised by its names
    assert (model.spec.name, model.num_classes, model.training) == (name, CLASSES, False)
    features = model.features(image)
    torch.testing.assert_close(model.route(features), 1 - reference["easiness"], rtol=0, atol=1e-9)
    for ours, theirs in ((model.head1(features), "easy"), (model.detector2(image, features), "hard")):
        for mine, expected in zip(ours, reference[theirs], strict=True):
            torch.testing.assert_close(mine, expected, rtol=1e-7, atol=1e-9)


@torch.no_grad()
def test_deployment_form_of_a_published_network_is_equal(published: tuple[str, Path]) -> None:
    """Raw outputs of both routes and the difficulty stay within 1e-4, and the network itself is unchanged."""
    _, path = published
    model = dynamicdet.load(path)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    deployed = model.deploy()
    image = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2))
    features, fused = model.features(image), deployed.features(image)
    torch.testing.assert_close(deployed.route(fused), model.route(features), rtol=0, atol=1e-4)
    pairs = [
        *zip(deployed.head1(fused), model.head1(features), strict=True),
        *zip(deployed.detector2(image, fused), model.detector2(image, features), strict=True),
    ]
    for mine, expected in pairs:
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-4)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in deployed.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_file_of_another_architecture_is_named(published: tuple[str, Path]) -> None:
    name, path = published
    other = next(known for known in NAMES if known != name)
    with pytest.raises(CheckpointError, match=f"holds {name}, not {other}"):
        dynamicdet.load(path, architecture=other)
    with pytest.raises(CheckpointError, match=f"holds {name}, not dy-yolov7-pico"):
        dynamicdet.load(path, architecture="dy-yolov7-pico")


def test_missing_and_unexpected_names_are_listed(tmp_path: Path) -> None:
    with torch.device("meta"):
        weights = {key: torch.zeros(1, device="cpu") for key in as_published(dynamicdet.create("dy-yolov7"))}
    weights["model_b.0.convolution.weight"] = weights.pop("model_b.0.conv.weight")
    torch.save({"model": weights}, tmp_path / "renamed.pt")
    with pytest.raises(
        CheckpointError, match=r": 1 weight missing \(model_b.0.conv.weight\) and 1 unexpected \(model_b.0.convo"
    ):
        dynamicdet.load(tmp_path / "renamed.pt")


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("new_format", [True, False])
def test_a_pickle_that_needs_code_is_refused_and_its_code_not_run(tmp_path: Path, new_format: bool) -> None:
    path = tmp_path / "code.pt"
    torch.save({"model": Touch(tmp_path / "ran")}, path, _use_new_zipfile_serialization=new_format)
    with pytest.raises(CheckpointError, match=r"needs code to load \("):
        dynamicdet.load(path)
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_without_state_dict_is_refused(tmp_path: Path) -> None:
    torch.save({"model": [1, 2]}, tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="no state dict"):
        dynamicdet.load(tmp_path / "list.pt")


def test_anchors_come_from_the_file_and_must_agree(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = dynamicdet.create("dy-yolov7", num_classes=1)
    weights = as_published(model)
    for keys in anchor_keys(model.spec):
        weights[keys.pixels] *= 2
        weights[keys.by_stride] *= 2
    torch.save({"model": weights}, tmp_path / "doubled.pt")
    assert torch.equal(dynamicdet.load(tmp_path / "doubled.pt").anchors, model.anchors * 2)
    weights[anchor_keys(model.spec)[1].by_stride] *= 2
    torch.save({"model": weights}, tmp_path / "torn.pt")
    with pytest.raises(CheckpointError, match="anchors that disagree"):
        dynamicdet.load(tmp_path / "torn.pt")


def test_space_to_depth_order_is_the_published_one() -> None:
    """(even, even), (odd row, even column), (even, odd column), (odd, odd); PixelUnshuffle swaps the middle two."""
    image = torch.arange(4.0).view(1, 1, 2, 2)
    assert space_to_depth(image).flatten().tolist() == [0, 2, 1, 3]


def test_unknown_architecture_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match="dy-yolov7-w6, dy-yolov7-pico"):
        dynamicdet.create("yolov9")
