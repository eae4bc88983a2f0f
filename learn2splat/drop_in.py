"""A `SceneOptimizer` in somebody else's trainer, in place of `torch.optim.Adam` over gsplat-style parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor

from learn2splat.cameras import Cameras
from learn2splat.optim.base import CLUSTERS, NEIGHBOURS, Need, OptimizerState, SceneOptimizer, StepContext, to_device
from learn2splat.scene.clusters import clusters
from learn2splat.scene.footprint import pixel_footprint_world
from learn2splat.scene.gaussians import GaussianScene
from learn2splat.scene.lineage import Lineage
from learn2splat.scene.neighbours import nearest_neighbours

NAMES = {"means": "means", "scales": "log_scales", "quats": "quats", "opacities": "logit_opacities"}
"""gsplat's names of parameters and ours; ``sh0`` and ``shN`` make up ``sh``."""
RENEW_EVERY = 100
NEAR = 0.01


class GroupOptimizer:
    """One parameter group, with what densification strategies look for: ``param_groups`` and ``state``.

    ``state[parameter]`` holds tensors with one row per Gaussian: strategies may index, reset or extend them.
    """

    def __init__(self, name: str, parameter: torch.nn.Parameter, zero_grad: Callable[[bool], None]) -> None:
        self.param_groups: list[dict[str, Any]] = [{"params": [parameter], "name": name, "lr": 1.0}]
        self.state: MutableMapping[torch.nn.Parameter, dict[str, Any]] = {parameter: {}}
        self._zero_grad = zero_grad

    @property
    def parameter(self) -> torch.nn.Parameter:
        """The parameter as it is now: strategies replace it."""
        parameter: torch.nn.Parameter = self.param_groups[0]["params"][0]
        return parameter

    @property
    def rows(self) -> dict[str, Any]:
        """State tensors of the parameter as it is now."""
        return self.state.setdefault(self.parameter, {})

    def replace(self, parameter: torch.nn.Parameter) -> None:
        """Go on with another parameter, without state."""
        self.param_groups[0]["params"], self.state = [parameter], {parameter: {}}

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradient of this parameter."""
        if set_to_none:
            self.parameter.grad = None
        elif self.parameter.grad is not None:
            self.parameter.grad.zero_()


class TorchSceneOptimizer:
    """Steps a dictionary of gsplat-style parameters with a `SceneOptimizer`.

    Args:
        params: ``means`` [N, 3], ``scales`` [N, 3] (logarithms), ``quats`` [N, 4], ``opacities`` [N] (logits), ``sh0``
            [N, 1, 3], ``shN`` [N, K - 1, 3]; `torch.nn.Parameter`s or tensors that require gradients. The dictionary
            is read anew at each step, so that a strategy may replace its entries.
        optimizer: makes the updates.
        cameras: training cameras: they give the pixel footprint and the extent.
        horizon: number of steps when known.
        batch_views: views whose mean loss is differentiated.

    Raises:
        ValueError: a parameter is missing, or shapes disagree.
    """

    def __init__(
        self,
        params: MutableMapping[str, Any],
        optimizer: SceneOptimizer,
        cameras: Cameras,
        horizon: int | None = None,
        batch_views: int = 1,
    ) -> None:
        missing = [name for name in (*NAMES, "sh0", "shN") if name not in params]
        if missing:
            raise ValueError(f"params lacks {', '.join(missing)}; it needs {', '.join((*NAMES, 'sh0', 'shN'))}")
        self.params, self.optimizer, self.cameras = params, optimizer, cameras
        self.horizon, self.batch_views = horizon, batch_views
        self.by_group = {name: GroupOptimizer(name, params[name], self.zero_grad) for name in (*NAMES, "sh0", "shN")}
        self._shared: dict[str, Tensor] = {}
        self._geometry: dict[str, Tensor] = {}
        self._step = 0
        self._photo_side_px = cameras.longest_side
        scene = self._scene({name: parameter.detach() for name, parameter in self._parameters().items()})
        to_device(optimizer, scene.means.device)
        self._store(self.optimizer.init(scene))

    @torch.no_grad()
    def step(self, visible: Tensor | None = None, loss: float | None = None) -> None:
        """One update from the gradients in the parameters.

        Args:
            visible: [N] bool, drawn in the views of this step; default those with a gradient.
            loss: their mean loss, when it is at hand.
        """
        parameters = self._parameters()
        values = {name: parameter.detach() for name, parameter in parameters.items()}
        grads = {name: torch.zeros_like(p) if p.grad is None else p.grad.detach() for name, p in parameters.items()}
        scene, gradient = self._scene(values), self._scene(grads)
        if visible is None:
            visible = (gradient.means != 0).any(dim=1)
        geometry = self._renewed_geometry(scene)
        context = StepContext(
            step=self._step,
            horizon=self.horizon,
            batch_views=self.batch_views,
            train_views=len(self.cameras),
            extent_world=self.cameras.extent_world or 1.0,
            visible=visible,
            loss=0.0 if loss is None else float(loss),
            pixel_footprint_world=geometry.get("pixel_footprint_world"),
            neighbours=geometry.get("neighbours"),
            clusters=geometry.get("clusters"),
            photo_side_px=self._photo_side_px,
        )
        update, state = self.optimizer.update(gradient, self._load(), scene, context)
        for name, change in self._split(update).items():
            parameters[name].data.add_(change.view_as(parameters[name]))
        self._store(state)
        self._step += 1

    def reindex(self, lineage: Lineage) -> None:
        """Follow a densification of the trainer's own: ``params`` hold the new rows already.

        Strategies that edit ``by_group`` do not need it.

        Args:
            lineage: how the new rows descend from the old ones.
        """
        state = self.optimizer.reindex(self._load(), lineage)
        for name, group in self.by_group.items():
            group.replace(self.params[name])
        self._store(state)
        self._geometry = {}

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear all gradients."""
        for group in self.by_group.values():
            group.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers from which `load_state_dict` goes on."""
        rows = {name: dict(group.rows) for name, group in self.by_group.items()}
        return {"step": self._step, "rows": rows, "shared": dict(self._shared), "geometry": dict(self._geometry)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._step, self._shared = int(state["step"]), dict(state["shared"])
        self._geometry = dict(state["geometry"])
        for name, group in self.by_group.items():
            group.state[group.parameter] = dict(state["rows"][name])

    def _parameters(self) -> dict[str, torch.nn.Parameter]:
        return {name: group.parameter for name, group in self.by_group.items()}

    @staticmethod
    def _scene(groups: Mapping[str, Tensor]) -> GaussianScene:
        sh = torch.cat([groups["sh0"], groups["shN"]], dim=1)
        plain = {ours: groups[theirs] for theirs, ours in NAMES.items()}
        return GaussianScene(**{**plain, "logit_opacities": groups["opacities"].reshape(-1)}, sh=sh)

    @staticmethod
    def _split(scene: GaussianScene) -> dict[str, Tensor]:
        groups = {theirs: getattr(scene, ours) for theirs, ours in NAMES.items()}
        return {**groups, "sh0": scene.sh[:, :1], "shN": scene.sh[:, 1:]}

    def _store(self, state: OptimizerState) -> None:
        """State rows go to the group of their parameter, those of none to ``means``."""
        ours = {ours: theirs for theirs, ours in NAMES.items()}
        kept: dict[str, dict[str, Tensor]] = {name: {} for name in self.by_group}
        for key, rows in state.rows.items():
            entry, _, parameter = key.rpartition(".")
            if parameter == "sh" and entry:
                kept["sh0"][entry], kept["shN"][entry] = rows[:, :1], rows[:, 1:]
            elif parameter in ours and entry:
                kept[ours[parameter]][entry] = rows
            else:
                kept["means"][f"@{key}"] = rows
        for name, rows_of_group in kept.items():
            self.by_group[name].rows.clear()
            self.by_group[name].rows.update(rows_of_group)
        self._shared = dict(state.shared)

    def _load(self) -> OptimizerState:
        rows: dict[str, Tensor] = {}
        for name, group in self.by_group.items():
            for entry, tensor in group.rows.items():
                if entry.startswith("@"):
                    rows[entry[1:]] = tensor
                elif name in NAMES:
                    rows[f"{entry}.{NAMES[name]}"] = tensor
        for entry, tensor in self.by_group["sh0"].rows.items():
            rows[f"{entry}.sh"] = torch.cat([tensor, self.by_group["shN"].rows[entry]], dim=1)
        return OptimizerState(rows, self._shared)

    def _renewed_geometry(self, scene: GaussianScene) -> dict[str, Tensor]:
        """Footprints, neighbours and clusters as the optimizer needs them; new ones when N has changed."""
        stale = not self._geometry or any(len(tensor) != len(scene) for tensor in self._geometry.values())
        if stale or self._step % RENEW_EVERY == 0:
            self._geometry = {}
            if Need.PIXEL_FOOTPRINT in self.optimizer.needs:
                footprint = pixel_footprint_world(scene.means, self.cameras.to(scene.means.device), NEAR)
                self._geometry["pixel_footprint_world"] = footprint
            if Need.NEIGHBOURS in self.optimizer.needs:
                self._geometry["neighbours"] = nearest_neighbours(scene.means, NEIGHBOURS)
            if Need.CLUSTERS in self.optimizer.needs:
                self._geometry["clusters"] = clusters(scene.means, CLUSTERS)
        return self._geometry
