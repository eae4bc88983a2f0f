"""Step sizes per parameter group, and how they change over a run."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, Protocol

import torch
from torch import Tensor

from learn2splat.optim.base import Need, StepContext
from learn2splat.scene.gaussians import GaussianScene


@dataclass(frozen=True)
class GroupRates:
    """One step size per parameter group.

    The defaults are gsplat's (Ye et al. 2025), with the means' rate relative to ``means_unit``.

    Args:
        means: in units of ``means_unit``.
        log_scales, quats, logit_opacities, sh0, shN: in the parameter's own unit.
        means_unit: "extent" = size of the camera rig; "footprint" = size of a pixel at the Gaussian, which does not
            depend on the scale of the world nor on where its origin lies.
    """

    means: float = 1.6e-4
    log_scales: float = 5e-3
    quats: float = 1e-3
    logit_opacities: float = 5e-2
    sh0: float = 2.5e-3
    shN: float = 2.5e-3 / 20
    means_unit: Literal["extent", "footprint"] = "extent"

    def __post_init__(self) -> None:
        if self.means_unit not in ("extent", "footprint"):
            raise ValueError(f"means_unit is {self.means_unit!r}; it must be 'extent' or 'footprint'")
        for entry in fields(self):
            value = getattr(self, entry.name)
            if entry.name != "means_unit" and not (isinstance(value, int | float) and value >= 0):
                raise ValueError(f"the rate of {entry.name} is {value!r}; it must be a number of 0 or more")

    @property
    def needs(self) -> frozenset[Need]:
        """What `by_parameter` requires of the context."""
        return frozenset({Need.PIXEL_FOOTPRINT}) if self.means_unit == "footprint" else frozenset()

    def by_parameter(self, scene: GaussianScene, context: StepContext) -> dict[str, Tensor]:
        """Step sizes that broadcast against each parameter of ``scene``."""

        def constant(value: float) -> Tensor:
            return torch.full((), value, dtype=scene.means.dtype, device=scene.means.device)  # no wait for a GPU

        if self.means_unit == "extent":
            means = constant(self.means * context.extent_world)
        else:
            if context.pixel_footprint_world is None:
                raise ValueError("means_unit='footprint' needs StepContext.pixel_footprint_world")
            means = self.means * context.pixel_footprint_world.to(scene.means)[:, None]
        sh = torch.full((scene.sh.shape[1], 1), self.shN, dtype=scene.sh.dtype, device=scene.sh.device)
        sh[0] = self.sh0
        return {
            "means": means,
            "log_scales": constant(self.log_scales),
            "quats": constant(self.quats),
            "logit_opacities": constant(self.logit_opacities),
            "sh": sh,
        }


class Schedule(Protocol):
    """A factor on the step size of one parameter over a run."""

    def factor(self, parameter: str, context: StepContext) -> float:
        """The factor for the parameter of that name at this step."""
        ...


@dataclass(frozen=True)
class PositionDecay:
    """The means' rate falls exponentially to ``final`` of its start over the horizon; others stay (3DGS).

    Args:
        final: share left at the end.
        steps_if_unknown: the horizon assumed for a run that does not know its own.
    """

    final: float = 0.01
    steps_if_unknown: int = 30_000

    def factor(self, parameter: str, context: StepContext) -> float:
        if parameter != "means":
            return 1.0
        horizon = context.horizon or self.steps_if_unknown
        return float(self.final ** min(1.0, context.step / horizon))


@dataclass(frozen=True)
class PowerDecay:
    """All rates are multiplied by ``scale / (1 + step / warm)^power``: no horizon is needed.

    Args:
        scale: factor at step 0.
        warm: steps over which the factor stays about constant.
        power: 0 keeps it constant, 0.5 decays like 1 / sqrt(step).
    """

    scale: float = 1.0
    warm: float = 20.0
    power: float = 0.0

    def factor(self, parameter: str, context: StepContext) -> float:
        return self.scale / (1.0 + context.step / self.warm) ** self.power


def step_sizes(rates: GroupRates, schedule: Schedule, scene: GaussianScene, context: StepContext) -> dict[str, Tensor]:
    """Rates times schedule at this step; each broadcasts against its parameter of ``scene``."""
    return {name: rate * schedule.factor(name, context) for name, rate in rates.by_parameter(scene, context).items()}
