"""Generated scenes: seeded drawings of coloured shapes, what is true about them, and sentences that say so.

A scene has one or two things. A thing has a size, a colour and a shape; two things differ in colour and in shape and
stand in a relation; a single thing has a position in the picture. Some combinations never appear in training: which
two coloured shapes meet, and which thing is where. All held-out pictures show such combinations and training pictures
never do, so that a model answers well only if it has learnt the parts, not the pictures.
"""

import io
import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from components.download.multiple_choice import MultipleChoice, ask

COLOURS = {
    "red": (212, 38, 38),
    "orange": (240, 134, 28),
    "yellow": (240, 218, 44),
    "green": (46, 150, 62),
    "cyan": (60, 205, 215),
    "blue": (38, 72, 200),
    "purple": (124, 46, 164),
    "pink": (242, 142, 190),
}
SHAPES = ("circle", "square", "triangle", "star", "heart", "cross")
SIZES = ("small", "large")
RELATIONS = {
    "to the left of": "to the right of",
    "to the right of": "to the left of",
    "above": "below",
    "below": "above",
}
POSITIONS = {
    "on the left": (0.25, 0.5),
    "on the right": (0.75, 0.5),
    "at the top": (0.5, 0.25),
    "at the bottom": (0.5, 0.75),
    "in the middle": (0.5, 0.5),
}

_POSITION_WORDS = dict(zip(POSITIONS, ("left", "right", "top", "bottom", "middle"), strict=True))
_RELATION_WORDS = dict(zip(RELATIONS, ("left", "right", "above", "below"), strict=True))

_RADIUS = {"small": (0.14, 0.16), "large": (0.21, 0.23)}
_SUPERSAMPLING = 3
_JPEG_QUALITY = 92
_GRAIN = 3.0


@dataclass(frozen=True)
class Thing:
    """A coloured shape. Lengths are fractions of the picture's side, the angle is in radians.

    Attributes:
        colour: Key of `COLOURS`.
        shape: One of `SHAPES`.
        size: One of `SIZES`.
        x: Centre, from the left.
        y: Centre, from the top.
        radius: Radius of the circle that encloses the shape.
        angle: Clockwise rotation.
        rgb: The shade that is drawn.
    """

    colour: str
    shape: str
    size: str
    x: float
    y: float
    radius: float
    angle: float
    rgb: tuple[int, int, int]

    @property
    def phrase(self) -> str:
        """The thing in words, without article: "small red circle"."""
        return f"{self.size} {self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """What a picture shows.

    Attributes:
        things: One or two things.
        place: Of one thing its position (`POSITIONS`), of two how the first stands to the second (`RELATIONS`).
        shades: Grey levels (0 to 255) of the background's corners: top left, top right, bottom left, bottom right.
        tint: Added to the background's red, green, blue.
        noise_seed: Seed of the picture's grain.
    """

    things: tuple[Thing, ...]
    place: str
    shades: tuple[int, int, int, int]
    tint: tuple[int, int, int]
    noise_seed: int

    @property
    def combination(self) -> str:
        """What the held-out split is about: of one thing everything, of two which colours and shapes meet."""
        if len(self.things) == 1:
            return f"{self.things[0].phrase} {self.place}"
        first, second = self.things
        return _together((first.colour, first.shape), (second.colour, second.shape))


def held_out_combinations(seed: int, share: float) -> frozenset[str]:
    """Choose the combinations that training never shows.

    Args:
        seed: The dataset's seed.
        share: Share of the one-thing combinations and of the two-thing combinations that is held out.

    Returns:
        Combinations as `Scene.combination` names them.
    """
    rng = random.Random(f"{seed}/held-out")
    single = [
        f"{size} {colour} {shape} {place}"
        for size in SIZES
        for colour in COLOURS
        for shape in SHAPES
        for place in POSITIONS
    ]
    pairs = sorted(itertools.product(COLOURS, SHAPES))
    double = [_together(a, b) for a, b in itertools.combinations(pairs, 2) if a[0] != b[0] and a[1] != b[1]]
    return frozenset(rng.sample(single, round(share * len(single))) + rng.sample(double, round(share * len(double))))


def _together(a: tuple[str, str], b: tuple[str, str]) -> str:
    return " and ".join(sorted(f"{colour} {shape}" for colour, shape in (a, b)))


def make_scene(rng: random.Random, two_things: bool, held_out: frozenset[str], training: bool) -> Scene:
    """Invent a scene.

    Args:
        rng: Source of all its choices.
        two_things: Whether there are two things or one.
        held_out: The combinations that training never shows.
        training: Whether the scene is for training (its combination is not held out) or for evaluation (it is).
    """
    while True:
        scene = _any_scene(rng, two_things)
        if (scene.combination in held_out) != training:
            return scene


def _any_scene(rng: random.Random, two_things: bool) -> Scene:
    colours, shapes = rng.sample(list(COLOURS), 2), rng.sample(SHAPES, 2)
    if two_things:
        place = rng.choice(list(RELATIONS))
        centres = _related_centres(rng, place)
    else:
        place = rng.choice(list(POSITIONS))
        x, y = POSITIONS[place]
        centres = [(x + rng.uniform(-0.04, 0.04), y + rng.uniform(-0.04, 0.04))]
    things = tuple(_thing(rng, *attributes) for attributes in zip(colours, shapes, centres, strict=False))
    level = rng.randint(175, 235)
    top_left, top_right, bottom_left, bottom_right = (min(255, max(0, level + rng.randint(-18, 18))) for _ in range(4))
    tint = (rng.randint(-6, 6), rng.randint(-6, 6), rng.randint(-6, 6))
    return Scene(things, place, (top_left, top_right, bottom_left, bottom_right), tint, rng.getrandbits(32))


def _related_centres(rng: random.Random, relation: str) -> list[tuple[float, float]]:
    near = 0.5 - rng.uniform(0.22, 0.26)
    far = 0.5 + rng.uniform(0.22, 0.26)
    across = 0.5 + rng.uniform(-0.12, 0.12)
    lefts = (near, across + rng.uniform(-0.06, 0.06))
    rights = (far, across + rng.uniform(-0.06, 0.06))
    ordered = [lefts, rights] if relation in ("to the left of", "above") else [rights, lefts]
    if relation in ("above", "below"):
        ordered = [(y, x) for x, y in ordered]
    return ordered


def _thing(rng: random.Random, colour: str, shape: str, centre: tuple[float, float]) -> Thing:
    size = rng.choice(SIZES)
    red, green, blue = (min(255, max(0, level + rng.randint(-14, 14))) for level in COLOURS[colour])
    angle = rng.uniform(-0.15, 0.15)
    return Thing(colour, shape, size, *centre, rng.uniform(*_RADIUS[size]), angle, (red, green, blue))


def draw(scene: Scene, side: int) -> bytes:
    """Draw the scene as a square JPEG of `side` pixels: anti-aliased shapes, shaded background, a little grain."""
    canvas = _background(scene, side)
    for thing in scene.things:
        left, top, cover = _cover(thing, side)
        area = canvas[top : top + cover.shape[0], left : left + cover.shape[1]]
        area += cover * (np.asarray(thing.rgb, dtype=np.float32) - area)
    canvas += np.random.default_rng(scene.noise_seed).standard_normal((side, side, 1), dtype=np.float32) * _GRAIN
    pixels = np.clip(np.rint(canvas), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def _background(scene: Scene, side: int) -> np.ndarray:
    ramp = np.linspace(0, 1, side, dtype=np.float32)
    top_left, top_right, bottom_left, bottom_right = scene.shades
    top = top_left + (top_right - top_left) * ramp
    bottom = bottom_left + (bottom_right - bottom_left) * ramp
    grey = top[None, :] + (bottom - top)[None, :] * ramp[:, None]
    return grey[:, :, None] + np.asarray(scene.tint, dtype=np.float32)


def _cover(thing: Thing, side: int) -> tuple[int, int, np.ndarray]:
    """Return where the thing's part of the picture begins (left, top) and how much of each pixel it covers [h, w, 1]."""
    reach = 1.3 * thing.radius
    left, top = (max(0, math.floor(side * (centre - reach))) for centre in (thing.x, thing.y))
    right, bottom = (min(side, math.ceil(side * (centre + reach))) for centre in (thing.x, thing.y))
    mask = Image.new("L", ((right - left) * _SUPERSAMPLING, (bottom - top) * _SUPERSAMPLING))
    _outline(ImageDraw.Draw(mask), thing, side, left, top)
    return left, top, np.asarray(mask.reduce(_SUPERSAMPLING), dtype=np.float32)[:, :, None] / 255


def _outline(pen: ImageDraw.ImageDraw, thing: Thing, side: int, left: int, top: int) -> None:
    """Fill the thing's shape with 255 in a mask that begins at pixel (left, top)."""

    def place(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
        cosine, sine = math.cos(thing.angle), math.sin(thing.angle)
        return [
            (
                _SUPERSAMPLING * (side * (thing.x + thing.radius * (cosine * u - sine * v)) - left),
                _SUPERSAMPLING * (side * (thing.y + thing.radius * (sine * u + cosine * v)) - top),
            )
            for u, v in points
        ]

    if thing.shape == "circle":
        pen.polygon(place([_polar(0.92, turn / 48) for turn in range(48)]), fill=255)
    elif thing.shape == "cross":
        for bar in _BARS:
            pen.polygon(place(bar), fill=255)
    elif thing.shape == "heart":
        pen.polygon(place([_heart(turn / 64) for turn in range(64)]), fill=255)
    else:
        pen.polygon(place(_CORNERS[thing.shape]), fill=255)


def _polar(radius: float, turn: float) -> tuple[float, float]:
    return radius * math.sin(2 * math.pi * turn), -radius * math.cos(2 * math.pi * turn)


def _heart(turn: float) -> tuple[float, float]:
    t = 2 * math.pi * turn
    x = 16 * math.sin(t) ** 3
    y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
    return x / 16, -(y + 2.5) / 15


_BARS = [
    [(-1.0, -0.32), (1.0, -0.32), (1.0, 0.32), (-1.0, 0.32)],
    [(-0.32, -1.0), (0.32, -1.0), (0.32, 1.0), (-0.32, 1.0)],
]
_CORNERS = {
    "square": [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)],
    "triangle": [(0.0, -1.0), (1.0, 0.8), (-1.0, 0.8)],
    "star": [_polar(1.05 if corner % 2 == 0 else 0.42, corner / 10) for corner in range(10)],
}


def captions(scene: Scene) -> list[str]:
    """Return five true sentences about the scene, each naming everything in it."""
    if len(scene.things) == 1:
        thing = scene.things[0].phrase
        return [
            f"a {thing} {scene.place}",
            f"a {thing} {scene.place} of the picture",
            f"there is a {thing} {scene.place}",
            f"a picture of a {thing} {scene.place}",
            f"the picture shows a {thing} {scene.place}",
        ]
    first, second = (thing.phrase for thing in scene.things)
    place, inverse = scene.place, RELATIONS[scene.place]
    return [
        f"a {first} {place} a {second}",
        f"a {second} {inverse} a {first}",
        f"there is a {first} {place} a {second}",
        f"a picture of a {second} {inverse} a {first}",
        f"the picture shows a {first} {place} a {second}",
    ]


def question(scene: Scene, category: str, about: int) -> str:
    """Return the question for a category ("colour", "shape", "place", "size", "count") about one of the things."""
    thing = scene.things[about]
    if category == "count":
        return "How many shapes are there?"
    if category == "size":
        return f"Is the {thing.shape} small or large?"
    if category == "colour":
        return f"What colour is the {thing.shape}?"
    if category == "shape":
        return f"What shape is the {thing.colour} one?"
    if len(scene.things) == 1:
        return f"Where in the picture is the {thing.shape}?"
    return f"Where is the {thing.shape}, seen from the {scene.things[1 - about].shape}?"


def answer(scene: Scene, category: str, about: int) -> str:
    """Return the short true answer to `question`."""
    thing = scene.things[about]
    if category == "count":
        return "one" if len(scene.things) == 1 else "two"
    if category == "size":
        return thing.size
    if category == "colour":
        return thing.colour
    if category == "shape":
        return thing.shape
    if len(scene.things) == 1:
        return _POSITION_WORDS[scene.place]
    return _RELATION_WORDS[scene.place if about == 0 else RELATIONS[scene.place]]


def multiple_choice(scene: Scene, category: str, about: int, letter: str, rng: random.Random) -> MultipleChoice:
    """Make a question with four options about one thing of the scene.

    Args:
        scene: The scene.
        category: "colour", "shape" or "place".
        about: Which thing, by its index.
        letter: Where the right option stands.
        rng: Chooses and orders the wrong options.
    """
    right = answer(scene, category, about)
    if category == "colour":
        choices = list(COLOURS)
    elif category == "shape":
        choices = list(SHAPES)
    elif len(scene.things) == 1:
        choices = list(_POSITION_WORDS.values())
    else:
        choices = list(_RELATION_WORDS.values())
    wrong = rng.sample([choice for choice in choices if choice != right], 3)
    return ask(question(scene, category, about), right, wrong, letter, rng)
