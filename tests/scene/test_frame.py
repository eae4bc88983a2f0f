"""Frames: quaternions and harmonics turn as matrices do, and a scene in another frame gives the same pictures."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from learn2splat.cameras import Cameras
from learn2splat.data.views import middle_view
from learn2splat.render.reference import ReferenceRenderer
from learn2splat.scene.frame import Frame
from learn2splat.scene.harmonics import sh_basis, sh_rotations
from learn2splat.scene.rotation import multiplied, quaternions, rotation_matrices
from tests.conftest import random_scene, ring_cameras


def rotations(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return rotation_matrices(torch.randn(count, 4, generator=generator, dtype=torch.float64))


def a_frame(seed: int = 0, unit: float = 2.5) -> Frame:
    tensor = torch.tensor([0.3, -1.2, 0.7], dtype=torch.float64)
    return Frame(rotations(1, seed)[0], tensor, torch.tensor(unit, dtype=torch.float64))


def moved_cameras(cameras: Cameras, frame: Frame) -> Cameras:
    """The same views of a world that is given in ``frame``."""
    poses = cameras.cam_from_world.clone()
    poses[:, :3, :3] = cameras.cam_from_world[:, :3, :3] @ frame.world_from_frame
    centers = frame.points(cameras.centers_world)
    poses[:, :3, 3] = -(poses[:, :3, :3] @ centers[..., None])[..., 0]
    return replace(cameras, cam_from_world=poses)


def test_quaternions_invert_rotation_matrices() -> None:
    half_turns = torch.diag_embed(torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64))
    matrices = torch.cat([rotations(50), half_turns, torch.eye(3, dtype=torch.float64)[None]])
    torch.testing.assert_close(rotation_matrices(quaternions(matrices)), matrices, rtol=0, atol=1e-12)


def test_products_of_quaternions_are_products_of_matrices() -> None:
    one, two = rotations(20, 1), rotations(20, 2)
    product = rotation_matrices(multiplied(quaternions(one), quaternions(two)))
    torch.testing.assert_close(product, one @ two, rtol=0, atol=1e-12)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_turned_harmonics_show_the_same_colour_in_the_turned_direction(degree: int) -> None:
    rotation = rotations(1, 3)[0]
    directions = rotations(30, 4)[:, 0]
    turned = sh_basis(directions @ rotation.mT, degree) @ sh_rotations(rotation, degree)
    torch.testing.assert_close(turned, sh_basis(directions, degree), rtol=0, atol=1e-12)


def test_a_scene_in_another_frame_gives_the_same_pictures() -> None:
    scene, cameras, frame = random_scene(20), ring_cameras(), a_frame()
    plain = ReferenceRenderer().render(scene, cameras).image
    moved = ReferenceRenderer().render(frame.scene(scene), moved_cameras(cameras, frame)).image
    torch.testing.assert_close(moved, plain, rtol=0, atol=1e-10)


def test_frames_invert_and_carry_updates() -> None:
    scene, change, frame = random_scene(20), random_scene(20, seed=1), a_frame()
    for name, tensor in frame.scene_world(frame.scene(scene)).items():
        torch.testing.assert_close(tensor, getattr(scene, name), rtol=0, atol=1e-12)
    there = frame.scene(scene.map(torch.add, frame.update_world(change)))
    for name, tensor in frame.scene(scene).map(torch.add, change).items():
        torch.testing.assert_close(tensor, getattr(there, name), rtol=0, atol=1e-12)


def test_gradients_in_a_frame_are_the_transpose_of_updates_from_it() -> None:
    change, slope, frame = random_scene(20, seed=1), random_scene(20, seed=2), a_frame()
    found, expected = (
        sum(float((a * b).sum()) for a, b in zip(one.tensors(), two.tensors(), strict=True))
        for one, two in ((change, frame.gradient(slope)), (frame.update_world(change), slope))
    )
    assert found == pytest.approx(expected, rel=1e-12)


def test_the_frame_of_a_camera_is_its_own() -> None:
    cameras = ring_cameras(1)
    frame = Frame.of_camera(cameras.cam_from_world[0], torch.tensor(1.0, dtype=torch.float64))
    points = random_scene(5).means
    there = points @ cameras.cam_from_world[0, :3, :3].mT + cameras.cam_from_world[0, :3, 3]
    torch.testing.assert_close(frame.points(points), there, rtol=0, atol=1e-12)


def test_the_middle_view_lies_among_the_others_whatever_their_order() -> None:
    cameras = ring_cameras(5)
    assert int(middle_view(cameras)) == 2
    assert int(middle_view(cameras.take([2, 0, 4, 1, 3]))) == 0
