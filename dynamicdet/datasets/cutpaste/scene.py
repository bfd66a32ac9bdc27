"""Makes one image: places of the objects (`_simple`, `_crowded`), visible parts (`visible_masks`), pixels (`_render`).

Easy scenes and hard ones differ a lot, so that a router has something to see.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageEnhance, ImageFilter, ImageStat

from dynamicdet.datasets.cutpaste.assets import OPAQUE, Assets, Cutout
from dynamicdet.datasets.cutpaste.catalogue import CLASSES, CLUTTER

SMALLEST_VISIBLE_SHARE = 0.4  # of an object's own area; with less, the object is removed from the scene
SMALLEST_SIDE = 8  # pixels of a visible box
_SIZES = ((320, 320), (320, 240), (240, 320), (320, 214), (214, 320), (320, 180))
_SIZE_ODDS = (0.3, 0.25, 0.15, 0.12, 0.08, 0.1)
_EASY_BELOW = 0.55
_LIGHT_SHARE = 0.2  # how far an object's mean colour goes towards that of its surroundings
_GROUND_ODDS = 0.6  # how often the lower of two places is taken
_OPAQUE_TABLE = [0] * OPAQUE + [255] * (256 - OPAQUE)


@dataclass(frozen=True)
class Placed:
    """A cut-out at its place: RGBA pixels with their upper left corner in the scene."""

    class_index: int  # -1 is clutter
    image: Image.Image
    left: int
    top: int
    unseen: bool


@dataclass(frozen=True)
class Scene:
    """A finished image and its visible objects. ``masks`` are boolean (H, W), one per object of a class."""

    image: Image.Image
    jpeg_quality: int
    difficulty: float  # 0 is the easiest scene, 1 the hardest; scenes are spread evenly
    kind: str  # "easy": one or two large, clear objects; "hard": many small ones in poor light
    objects: tuple[Placed, ...]
    masks: tuple[npt.NDArray[np.bool_], ...]


def make(assets: Assets, rng: np.random.Generator) -> Scene:
    """Make a scene of random difficulty with at least one visible object."""
    difficulty = float(rng.uniform())
    crowd = _crowd(difficulty)
    murk = 0.0 if crowd is None else 0.35 + 0.5 * crowd
    while True:
        size = _SIZES[rng.choice(len(_SIZES), p=_SIZE_ODDS)]
        plan = _simple(assets, size, rng) if crowd is None else _crowded(assets, size, crowd, murk, rng)
        placed, masks = _drop_hidden(plan, size)
        if any(thing.class_index >= 0 for thing in placed):
            break
    image = _render(_background(assets, size, rng), placed, murk, rng)
    seen = [(thing, mask) for thing, mask in zip(placed, masks, strict=True) if thing.class_index >= 0]
    return Scene(
        image=image,
        jpeg_quality=int(rng.integers(round(80 - 40 * murk), 93 - round(20 * murk))),
        difficulty=difficulty,
        kind="easy" if crowd is None else "hard",
        objects=tuple(thing for thing, _ in seen),
        masks=tuple(mask for _, mask in seen),
    )


def visible_masks(placed: list[Placed], size: tuple[int, int]) -> tuple[list[npt.NDArray[np.bool_]], list[int]]:
    """Each object's visible pixels, boolean (H, W), and its whole area in pixels; later objects cover earlier ones."""
    width, height = size
    owner = np.full((height, width), -1, dtype=np.int16)
    areas = []
    for index, thing in enumerate(placed):
        opaque = np.asarray(thing.image.getchannel("A")) >= OPAQUE
        areas.append(int(opaque.sum()))
        x0, y0 = max(thing.left, 0), max(thing.top, 0)
        x1, y1 = min(thing.left + thing.image.width, width), min(thing.top + thing.image.height, height)
        if x1 > x0 and y1 > y0:
            inside = opaque[y0 - thing.top : y1 - thing.top, x0 - thing.left : x1 - thing.left]
            owner[y0:y1, x0:x1][inside] = index
    return [owner == index for index in range(len(placed))], areas


def box_of(mask: npt.NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Tight box of a mask with at least one pixel: x, y, width, height in pixels."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1)


def _crowd(difficulty: float) -> float | None:
    """How crowded a hard scene is, from 0 to 1; None for an easy scene."""
    return None if difficulty < _EASY_BELOW else (difficulty - _EASY_BELOW) / (1 - _EASY_BELOW)


def _simple(assets: Assets, size: tuple[int, int], rng: np.random.Generator) -> list[Placed]:
    """One object that fills much of the scene; sometimes another one, or something of no class, beside it."""
    things = [_place(*_draw(assets, rng), _share(0.7, 0.95, rng), [], size, rng)]
    if rng.uniform() < 0.1:
        things.append(_place(*_draw(assets, rng), _share(0.4, 0.6, rng), things, size, rng))
    if assets.clutter and rng.uniform() < 0.3:
        things.append(_place(*_draw_clutter(assets, rng), _share(0.4, 0.6, rng), things, size, rng))
    return [things[i] for i in rng.permutation(len(things))]


def _crowded(
    assets: Assets, size: tuple[int, int], crowd: float, murk: float, rng: np.random.Generator
) -> list[Placed]:
    """Many objects, the more the smaller, that overlap each other and the border.

    Most scenes hold few objects and some hold many, as in pictures of streets and shelves.
    """
    smallest, largest = 0.26 - 0.13 * crowd, 0.5 - 0.2 * crowd
    things: list[Placed] = []
    for _ in range(3 + round(12 * crowd**2) + int(rng.integers(-1, 2))):
        share = _share(smallest, largest, rng)
        things.append(_place(*_draw(assets, rng), share, things, size, rng, murk=murk))
    for _ in range(int(rng.integers(0, 2 + round(3 * crowd))) if assets.clutter else 0):
        share = _share(0.7 * smallest, 0.8 * largest, rng)
        things.append(_place(*_draw_clutter(assets, rng), share, things, size, rng, murk=murk))
    return [things[i] for i in rng.permutation(len(things))]


def _draw(assets: Assets, rng: np.random.Generator) -> tuple[Cutout, int]:
    """A cut-out and its class.

    Classes of many cut-outs come more often, because they take more pictures to learn; with odds in proportion to the
    number of cut-outs, the small classes would be rare.
    """
    odds = np.sqrt([len(assets.cutouts[kind.name]) for kind in CLASSES])
    class_index = int(rng.choice(len(CLASSES), p=odds / odds.sum()))
    cutouts = assets.cutouts[CLASSES[class_index].name]
    return cutouts[rng.integers(len(cutouts))], class_index


def _draw_clutter(assets: Assets, rng: np.random.Generator) -> tuple[Cutout, int]:
    return assets.clutter[rng.integers(len(assets.clutter))], -1


def _share(smallest: float, largest: float, rng: np.random.Generator) -> float:
    """The part of the scene that an object spans: each doubling is equally likely."""
    return float(np.exp(rng.uniform(np.log(smallest), np.log(largest))))


def _place(
    cutout: Cutout,
    class_index: int,
    share: float,
    others: list[Placed],
    size: tuple[int, int],
    rng: np.random.Generator,
    *,
    murk: float = 0.0,
) -> Placed:
    """Rotate, flip, scale and tint a cut-out to span ``share`` of the scene, and find a place for it.

    Without ``murk`` (0..1), objects are whole and apart; with it, they overlap each other and the border.
    """
    image = cutout.image
    kind = CLUTTER if class_index < 0 else CLASSES[class_index]
    if kind.may_flip and rng.uniform() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    image = _tint(image, 1.0 if murk else 0.4, rng)
    width, height = size
    scale = min(share * max(size) / max(image.size), 0.95 * width / image.width, 0.95 * height / image.height)
    image = image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.LANCZOS
    )
    angle = float(np.clip(rng.normal(0, 0.5), -1, 1)) * kind.max_rotation
    image = image.rotate(angle, Image.Resampling.BICUBIC, expand=True)
    over = murk * rng.uniform(0, 0.4)  # share of the object that may be outside the border
    best, least = (0, 0), np.inf
    for _ in range(10):
        left = _coordinate(width, image.width, over, rng)
        # Most things stand low in a photograph rather than float.
        top = max(_coordinate(height, image.height, over, rng) for _ in range(1 + (rng.uniform() < _GROUND_ODDS)))
        overlap = sum(_overlap(left, top, image, other) for other in others)
        if overlap < least:
            best, least = (left, top), overlap
        if overlap <= 0.3 * murk * rng.uniform():
            break
    return Placed(class_index, image, *best, unseen=cutout.unseen)


def _coordinate(room: int, extent: int, over: float, rng: np.random.Generator) -> int:
    low, high = sorted((-over * extent, room - extent + over * extent))
    return round(rng.uniform(low, high))


def _overlap(left: int, top: int, image: Image.Image, other: Placed) -> float:
    width = min(left + image.width, other.left + other.image.width) - max(left, other.left)
    height = min(top + image.height, other.top + other.image.height) - max(top, other.top)
    smaller = min(image.width * image.height, other.image.width * other.image.height)
    return max(width, 0) * max(height, 0) / smaller


def _tint(image: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    alpha = image.getchannel("A")
    colour = image.convert("RGB")
    for enhancer, low, high in (
        (ImageEnhance.Color, 0.6, 1.3),
        (ImageEnhance.Contrast, 0.8, 1.2),
        (ImageEnhance.Brightness, 0.7, 1.25),
    ):
        colour = enhancer(colour).enhance(1 + strength * (rng.uniform(low, high) - 1))
    colour.putalpha(alpha)
    return colour


def _drop_hidden(placed: list[Placed], size: tuple[int, int]) -> tuple[list[Placed], list[npt.NDArray[np.bool_]]]:
    """Remove hardly visible objects, one at a time: every visible object needs its box."""
    while True:
        masks, areas = visible_masks(placed, size)
        shares = [_visible_share(mask, area) for mask, area in zip(masks, areas, strict=True)]
        hidden = [i for i, share in enumerate(shares) if share < SMALLEST_VISIBLE_SHARE]
        if not hidden:
            return placed, masks
        worst = min(hidden, key=lambda i: shares[i])
        placed = [thing for i, thing in enumerate(placed) if i != worst]


def _visible_share(mask: npt.NDArray[np.bool_], area: int) -> float:
    """Share of an object's own pixels that are visible; 0 if the visible part is too small to recognise."""
    if not mask.any() or min(box_of(mask)[2:]) < SMALLEST_SIDE:
        return 0.0
    return float(mask.sum()) / area


def _background(assets: Assets, size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    photo = assets.backgrounds[rng.integers(len(assets.backgrounds))]
    width, height = size
    fit = min(photo.width / width, photo.height / height)  # photo pixels per scene pixel when the crop is largest
    scale = fit * float(np.exp(rng.uniform(np.log(0.33), 0)))
    x, y = rng.uniform(0, photo.width - width * scale), rng.uniform(0, photo.height - height * scale)
    crop = photo.resize(size, Image.Resampling.BILINEAR, box=(x, y, x + width * scale, y + height * scale))
    if rng.uniform() < 0.5:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    crop = ImageEnhance.Color(crop).enhance(rng.uniform(0.5, 1.3))
    return ImageEnhance.Brightness(crop).enhance(rng.uniform(0.75, 1.2))


def _render(background: Image.Image, placed: list[Placed], murk: float, rng: np.random.Generator) -> Image.Image:
    image = background
    drift = rng.uniform(-0.06, 0.06)  # one light for the scene: all shadows fall to the same side
    for thing in placed:
        image = _paste(image, thing, drift, rng)
    blur = murk * rng.uniform(0, 1.5)
    if blur > 0.3:
        image = image.filter(ImageFilter.GaussianBlur(blur))
    # As in poor light: darker, flatter and noisier. A router can see that.
    pixels = np.asarray(image, dtype=np.float32)
    mean = pixels.mean(axis=(0, 1), keepdims=True)
    contrast = 1 - murk * rng.uniform(0.15, 0.4)
    light = 1 - murk * rng.uniform(0.1, 0.35) + rng.uniform(-0.05, 0.05)
    cast = 1 + 0.06 * rng.uniform(-1, 1, size=(1, 1, 3))
    pixels = ((pixels - mean) * contrast + mean) * light * cast
    pixels = pixels + rng.normal(0, 1 + 10 * murk * rng.uniform(0.75, 1), size=pixels.shape)
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def _paste(image: Image.Image, thing: Placed, drift: float, rng: np.random.Generator) -> Image.Image:
    """Paste an object with a soft shadow and feathered edges, in the light of the place where it stands."""
    colour, alpha = thing.image.convert("RGB"), thing.image.getchannel("A")
    extent = max(thing.image.size)
    reach = max(2.0, 0.05 * extent)  # of the shadow, pixels
    rim = round(3 * reach)
    around = (
        thing.left - rim,
        thing.top - rim,
        thing.left + thing.image.width + rim,
        thing.top + thing.image.height + rim,
    )
    shadow = Image.new("L", (thing.image.width + 2 * rim, thing.image.height + 2 * rim))
    shadow.paste(alpha, (rim + round(drift * extent), rim + round(0.9 * reach)))
    shadow = shadow.filter(ImageFilter.GaussianBlur(reach))
    strength = rng.uniform(0.25, 0.45)
    below = image.crop(around)
    dark = ImageEnhance.Brightness(below).enhance(1 - strength)
    image.paste(dark, around[:2], shadow)
    colour = _lit_like(colour, alpha, below)
    soft = alpha.filter(ImageFilter.GaussianBlur(0.7 + 0.003 * extent))
    # Only inwards: what is beyond an outline may have the colour of the studio.
    image.paste(colour, (thing.left, thing.top), ImageChops.darker(alpha, soft))
    return image


def _lit_like(colour: Image.Image, alpha: Image.Image, below: Image.Image) -> Image.Image:
    """Pull the mean colour of an object's opaque pixels towards that of the background behind it."""
    own = np.array(ImageStat.Stat(colour, alpha.point(_OPAQUE_TABLE)).mean)
    there = np.array(ImageStat.Stat(below).mean)
    gain = np.clip((own + _LIGHT_SHARE * (there - own)) / np.maximum(own, 1), 0.6, 1.5)
    table = np.clip(np.arange(256) * gain[:, np.newaxis], 0, 255).round().astype(int)
    return colour.point(table.ravel().tolist())
