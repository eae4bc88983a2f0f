"""Writes a scene as a COLMAP folder in text, whole or not at all: for eyes, scripts and other programs."""

from __future__ import annotations

from pathlib import Path

from scipy.spatial.transform import Rotation

from learn2splat.data.base import BadSceneError, SceneData
from learn2splat.data.folder_writer import distinct_cameras, file_names, whole_folder, write_photos


def write_colmap_text(scene: SceneData, folder: Path) -> None:
    """Write ``images/`` and ``sparse/0/{cameras,images,points3D}.txt``: PINHOLE cameras, points without tracks.

    Args:
        scene: what to write; image names without a suffix become PNG files.
        folder: must not exist, or be empty; appears only when everything is written.

    Raises:
        FileExistsError: ``folder`` is a file or holds something.
        BadSceneError: a name cannot stand in a text file.
    """
    with whole_folder(folder) as partial:
        sparse = partial / "sparse" / "0"
        sparse.mkdir(parents=True)
        for stem, lines in (("cameras", _cameras(scene)), ("images", _images(scene)), ("points3D", _points(scene))):
            (sparse / f"{stem}.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        write_photos(scene, partial)


def _cameras(scene: SceneData) -> list[str]:
    lines = ["# CAMERA_ID MODEL WIDTH HEIGHT FX FY CX CY"]
    for index, (width, height, *params) in enumerate(distinct_cameras(scene)[0].tolist(), start=1):
        lines.append(f"{index} PINHOLE {width:.0f} {height:.0f} {_numbers(params)}")
    return lines


def _images(scene: SceneData) -> list[str]:
    poses = scene.cameras.cam_from_world.cpu().double().numpy()
    quaternions = Rotation.from_matrix(poses[:, :3, :3]).as_quat()[:, [3, 0, 1, 2]].tolist()
    cameras = (distinct_cameras(scene)[1] + 1).tolist()
    lines = ["# IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, then a line of 2D points: none"]
    for view, name in enumerate(file_names(scene)):
        if name != name.strip() or not {"\n", "\r"}.isdisjoint(name):
            raise BadSceneError(f"a photo is called {name!r}, which cannot stand in a text file; rename it")
        pose = _numbers([*quaternions[view], *poses[view, :3, 3].tolist()])
        lines += [f"{view + 1} {pose} {cameras[view]} {name}", ""]
    return lines


def _points(scene: SceneData) -> list[str]:
    lines = ["# POINT3D_ID X Y Z R G B ERROR, then the track: none"]
    if scene.points is None:
        return lines
    positions = scene.points.positions_world.cpu().double().tolist()
    colors = (scene.points.colors.cpu() * 255).round().clamp(0, 255).int().tolist()
    for index, (position, color) in enumerate(zip(positions, colors, strict=True), start=1):
        lines.append(f"{index} {_numbers(position)} {' '.join(map(str, color))} 0")
    return lines


def _numbers(values: list[float]) -> str:
    return " ".join(map(repr, values))
