"""From a path to a scene, whatever format it is in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from learn2splat.data.base import BadSceneError, SceneData, SceneSource
from learn2splat.data.posed import abbreviated


def default_sources() -> tuple[SceneSource, ...]:
    """The formats that the package reads, in the order in which they are asked."""
    from learn2splat.data.chunks import ChunkSource
    from learn2splat.data.colmap import ColmapSource
    from learn2splat.data.polycam import PolycamSource
    from learn2splat.data.procedural.source import ProceduralSource
    from learn2splat.data.record3d import Record3DSource
    from learn2splat.data.transforms import BlenderSource, TransformsSource

    files = ColmapSource(), TransformsSource(), BlenderSource(), PolycamSource(), Record3DSource(), ChunkSource()
    return ProceduralSource(), *files


def load_scene(
    path: str | Path, *, max_size: int = 1600, test_every: int = 8, sources: Sequence[SceneSource] | None = None
) -> SceneData:
    """Load a scene; its format is recognised by its content.

    Args:
        path: a capture, or a procedural specification.
        max_size: upper bound of the long side of the photos in pixels; larger photos are area-filtered.
        test_every: every n-th view (in order of names) is held out; 0 holds out none.
        sources: the formats to try; the first that recognises the path loads it. None tries all known ones.

    Raises:
        BadSceneError: nothing recognises the path (lists what was looked for), or its content is broken.
        ValueError: ``max_size`` or ``test_every`` is out of range.
    """
    if max_size < 1:
        raise ValueError(f"max_size={max_size}: the long side of a photo is 1 pixel or more")
    path = Path(path)
    sources = default_sources() if sources is None else sources
    for source in sources:
        if source.recognises(path):
            return source.load(path, max_size=max_size, test_every=test_every)
    looked_for = "; ".join(f"{source.name}: {source.looks_for}" for source in sources)
    raise BadSceneError(f"{_what_is_there(path, sources)} Looked for {looked_for}.")


def _what_is_there(path: Path, sources: Sequence[SceneSource]) -> str:
    try:
        if not path.exists():
            return f"{path} does not exist: check the spelling, and the folder that the command runs in."
        if not path.is_dir():
            return f"{path} is a file and no known scene format: give the folder that holds the scene."
        children = sorted(path.iterdir())
    except (OSError, ValueError) as error:
        return f"{path} cannot be read ({error}): check its permissions."
    if not children:
        return f"{path} is an empty folder: give the folder that holds the scene."
    scenes = [child.name for child in children if any(source.recognises(child) for source in sources)]
    if scenes:
        return f"{path} is not a scene, but holds some ({abbreviated(scenes, 6)}): give one of them."
    return f"{path} is not a scene that is known; it holds {abbreviated([child.name for child in children], 6)}."
