"""A frame of one's own: networks that see coordinates in it do not depend on how the world is placed and scaled."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene.harmonics import sh_rotations
from learn2splat.scene.rotation import multiplied, quaternions

CONJUGATE = (1.0, -1.0, -1.0, -1.0)


@dataclass(frozen=True)
class Frame:
    """A similarity: world = unit_world * world_from_frame @ local + origin_world.

    Args:
        world_from_frame: [3, 3] rotation.
        origin_world: [3] world units.
        unit_world: [] length of the frame's unit, world units.
    """

    world_from_frame: Tensor
    origin_world: Tensor
    unit_world: Tensor

    @classmethod
    def of_camera(cls, cam_from_world: Tensor, unit_world: Tensor) -> Frame:
        """The frame of a camera [4, 4]."""
        rotation = cam_from_world[:3, :3].mT
        return cls(rotation, -rotation @ cam_from_world[:3, 3], unit_world)

    def points(self, points_world: Tensor) -> Tensor:
        """[..., 3] world -> frame."""
        return (points_world - self.origin_world) @ self.world_from_frame / self.unit_world

    def directions(self, directions_world: Tensor) -> Tensor:
        """[..., 3] world -> frame; lengths stay."""
        return directions_world @ self.world_from_frame

    def scene(self, scene_world: GaussianScene) -> GaussianScene:
        """A scene in this frame."""
        turn = sh_rotations(self.world_from_frame.mT, scene_world.sh_degree)
        conjugate = scene_world.quats.new_tensor(CONJUGATE)
        return GaussianScene(
            means=self.points(scene_world.means),
            log_scales=scene_world.log_scales - self.unit_world.log(),
            quats=multiplied(quaternions(self.world_from_frame) * conjugate, scene_world.quats),
            logit_opacities=scene_world.logit_opacities,
            sh=turn @ scene_world.sh,
        )

    def update_world(self, update: GaussianScene) -> GaussianScene:
        """A change of `scene` as one of the scene in the world: u with scene(s) + update = scene(s + u)."""
        return GaussianScene(
            means=self.unit_world * update.means @ self.world_from_frame.mT,
            log_scales=update.log_scales,
            quats=multiplied(quaternions(self.world_from_frame), update.quats),
            logit_opacities=update.logit_opacities,
            sh=sh_rotations(self.world_from_frame, update.sh_degree) @ update.sh,
        )

    def gradient(self, gradient_world: GaussianScene) -> GaussianScene:
        """The derivative by `scene` of what has this one by the scene in the world: the transpose of `update_world`."""
        conjugate = gradient_world.quats.new_tensor(CONJUGATE)
        return GaussianScene(
            means=self.unit_world * gradient_world.means @ self.world_from_frame,
            log_scales=gradient_world.log_scales,
            quats=multiplied(quaternions(self.world_from_frame) * conjugate, gradient_world.quats),
            logit_opacities=gradient_world.logit_opacities,
            sh=sh_rotations(self.world_from_frame, gradient_world.sh_degree).mT @ gradient_world.sh,
        )

    def scene_world(self, scene: GaussianScene) -> GaussianScene:
        """The inverse of `scene`."""
        moved = self.update_world(scene)
        return GaussianScene(
            moved.means + self.origin_world,
            moved.log_scales + self.unit_world.log(),
            moved.quats,
            moved.logit_opacities,
            moved.sh,
        )
