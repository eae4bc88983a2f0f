"""What is asked of the generator, and its text form ``procedural:seed=3,views=20``."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from learn2splat.errors import UserError

PREFIX = "procedural:"
PATHS = ("ring", "forward", "walk", "nadir")
THEMES: dict[str, tuple[str, ...]] = {
    "ring": ("tabletop", "floor_object", "garden"),
    "forward": ("facade", "wall"),
    "walk": ("room", "street"),
    "nadir": ("aerial",),
}


@dataclass(frozen=True)
class ProceduralSpec:
    """One procedural scene.

    Args:
        seed: draws everything; any integer from 0.
        views: 3..1000 photos.
        width: 16..4096 pixels; height: likewise, or None for three quarters of the width.
        path: ring, forward, walk or nadir; auto draws one (or takes the theme's).
        theme: tabletop, floor_object, garden, facade, wall, room, street or aerial; auto draws one of the path's.
        points: number of sparse points; None for what a reconstruction of such photos would have.
        test_every: every n-th view is held out; 0 holds out none.
        exposure: standard deviation over views of the logarithm of exposure.
        vignette: share of light lost in the corners, 0..1.
        noise: standard deviation of sensor noise in 8-bit levels.

    Raises:
        ValueError: a value out of range; names what is legal.
    """

    seed: int = 0
    views: int = 20
    width: int = 128
    height: int | None = None
    path: str = "auto"
    theme: str = "auto"
    points: int | None = None
    test_every: int = 8
    exposure: float = 0.02
    vignette: float = 0.12
    noise: float = 1.0

    def __post_init__(self) -> None:
        self._within("seed", 0, 2**63 - 1)
        self._within("views", 3, 1000)
        self._within("width", 16, 4096)
        self._within("height", 16, 4096, optional=True)
        self._within("points", 0, 10_000_000, optional=True)
        self._within("test_every", 0, 1_000_000)
        self._within("exposure", 0.0, 1.0)
        self._within("vignette", 0.0, 1.0)
        self._within("noise", 0.0, 100.0)
        if self.test_every == 1:
            raise UserError("procedural scene: test_every=1 would hold out every view; give 0 or 2 and more")
        self._among("path", ("auto", *PATHS))
        legal = sum(THEMES.values(), ()) if self.path == "auto" else THEMES[self.path]
        self._among("theme", ("auto", *legal))

    def _within(self, name: str, low: float, high: float, optional: bool = False) -> None:
        value = getattr(self, name)
        if value is None and optional:
            return
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
            raise UserError(f"procedural scene: {name}={value!r} is not a number from {low} to {high}")
        if isinstance(low, int) and not isinstance(value, int):
            raise UserError(f"procedural scene: {name}={value!r} is not a whole number")

    def _among(self, name: str, legal: tuple[str, ...]) -> None:
        value = getattr(self, name)
        if value not in legal:
            raise UserError(f"procedural scene: {name}={value!r} is not one of {', '.join(legal)} (path={self.path})")

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.width, self.height or max(16, round(0.75 * self.width))

    @classmethod
    def parse(cls, text: str) -> ProceduralSpec:
        """The spec of ``procedural:key=value,...``; keys that are left out take their defaults.

        Raises:
            ValueError: not such a text, an unknown or repeated key, or a bad value; names what is legal.
        """
        if not is_spec(text):
            raise UserError(f"{text!r} does not begin with {PREFIX!r}")
        values: dict[str, Any] = {}
        for item in filter(None, text.removeprefix(PREFIX).split(",")):
            key, equals, value = (part.strip() for part in item.partition("="))
            if key not in _KINDS:
                raise UserError(f"procedural scene: unknown key {key!r}; legal keys are {', '.join(_KINDS)}")
            if not equals or not value:
                raise UserError(f"procedural scene: {item!r} is not of the form key=value")
            if key in values:
                raise UserError(f"procedural scene: {key!r} is given twice")
            values[key] = _value(key, value)
        return cls(**values)

    def format(self) -> str:
        """The shortest text that ``parse`` turns into this spec."""
        shown = [(f.name, getattr(self, f.name)) for f in fields(self)]
        default = {f.name: f.default for f in fields(self)}
        items = [f"{name}={value}" for name, value in shown if name == "seed" or value != default[name]]
        return PREFIX + ",".join(items)


_KINDS = {
    f.name: ("float" if "float" in f.type else "int" if "int" in f.type else "str") for f in fields(ProceduralSpec)
}


def _value(key: str, text: str) -> int | float | str | None:
    kind = _KINDS[key]
    if kind == "str":
        return text
    if text == "None" and key in ("height", "points"):
        return None
    try:
        return int(text) if kind == "int" else float(text)
    except ValueError:
        wanted = "a whole number" if kind == "int" else "a number"
        raise UserError(f"procedural scene: {key}={text!r} is not {wanted}") from None


def is_spec(text: str) -> bool:
    """Whether ``text`` is meant as a procedural spec."""
    return text.startswith(PREFIX)
