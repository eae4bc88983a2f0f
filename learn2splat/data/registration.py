"""What came of finding the cameras of photos, and whether to trust it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from learn2splat.data.posed import abbreviated

FEW_SHARE = 0.8
"""Share of photos with a pose, below which there is advice."""
LARGEST_ERROR = 1.5
"""Mean reprojection error in pixels of the picture that features were sought in; COLMAP drops what is over 4."""
LEAST_TRACK = 3.0
"""Mean number of photos that show a point: two rays nearly always meet somewhere, so that pairs prove no pose."""
LEAST_POINTS = 50
"""Points that a photo shows; COLMAP asks for 30 to give it a pose."""


@dataclass(frozen=True)
class Registration:
    """What came of the photos.

    Args:
        photos: how many there are.
        missing: names of those that have no pose.
        points: number of sparse points.
        error_px: mean reprojection error in pixels of the photos.
        pieces: disconnected models; the largest was written.
        shrunk_by: by how much photos were shrunk at most to look for features, 1 or more.
        track: mean number of photos that show a point.
        points_in: number of points that each photo with a pose shows.
    """

    photos: int
    missing: tuple[str, ...]
    points: int
    error_px: float
    pieces: int
    shrunk_by: float = 1.0
    track: float = LEAST_TRACK
    points_in: Mapping[str, int] = field(default_factory=dict)

    @property
    def advice(self) -> list[str]:
        """What is doubtful, and what to do about it, one paragraph each; empty when all is well."""
        checks = (self._few(), self._pieces(), self._inexact(), self._loose(), self._weak())
        return [paragraph for paragraph in checks if paragraph]

    def _few(self) -> str:
        found = self.photos - len(self.missing)
        if found >= FEW_SHARE * self.photos:
            return ""
        pieces = f", and the model fell into {self.pieces} pieces" if self.pieces > 1 else ""
        return (
            f"only {found} of {self.photos} photos have a pose{pieces} (none: {abbreviated(self.missing, 4)}). "
            "Neighbouring photos should share two thirds of what they show: add photos in between, walk around rather "
            "than turn on the spot, leave out blurred ones, avoid bare walls and mirrors; --matching exhaustive finds "
            "pairs far apart in the order of names."
        )

    def _pieces(self) -> str:
        if self.pieces <= 1 or self._few():
            return ""
        if not self.missing:
            return (
                f"{self.pieces} beginnings were needed until all photos fitted together, so that the poses, and the "
                "focal length with them, may be inexact. More photos help, sideways steps between them, and a focal "
                "length in their EXIF data."
            )
        return (
            f"the photos fell into {self.pieces} pieces, of which the largest was written (not in it: "
            f"{abbreviated(self.missing, 4)}). Add photos that show what the pieces have in common."
        )

    def _inexact(self) -> str:
        error = self.error_px / self.shrunk_by
        if error <= LARGEST_ERROR:
            return ""
        return (
            f"points miss their places by {error:.1f} pixels on average (0.3 to 1 is usual): poses or the lens are "
            "inexact. Leave out blurred photos and moving things, and do not zoom between photos."
        )

    def _loose(self) -> str:
        if self.track >= LEAST_TRACK:
            return ""
        return (
            f"a point is shown by {self.track:.1f} photos on average, and poses that few photos agree on are often "
            "wrong. Take more photos, each thing in three or more; look at the result with l2s scene info."
        )

    def _weak(self) -> str:
        weak = [name for name, count in self.points_in.items() if count < LEAST_POINTS]
        if not weak:
            return ""
        return (
            f"{len(weak)} photos show fewer than {LEAST_POINTS} points, and their poses may be wrong "
            f"({abbreviated(weak, 4)}). Remove them, or take photos between them and the others."
        )
