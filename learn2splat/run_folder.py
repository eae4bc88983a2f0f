"""The folder that a run writes: metrics, summary, configuration, scene, pictures, checkpoint."""

from __future__ import annotations

import json
import math
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from PIL import Image
from torch import Tensor

from learn2splat import __version__, checkpoint
from learn2splat.data.views import ViewSampler
from learn2splat.errors import UserError
from learn2splat.files import shareable, shareable_paths, write_text, write_whole
from learn2splat.rollout_checkpoint import pack_rollout, unpack_rollout
from learn2splat.rollout_state import OutcomeKind, RolloutState

CHECKPOINT_KIND = "run"


class RunFolderError(UserError):
    """A run folder that cannot be used as asked; the message says what to do."""


class RunFolder:
    """One run's files under ``path``; each is whole or absent."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint"

    @property
    def ply(self) -> Path:
        return self.path / "point_cloud.ply"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    def create(self, config: DictConfig) -> None:
        """Begin a new run.

        Raises:
            RunFolderError: the folder holds something already.
        """
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise RunFolderError(f"{self.path} exists and is not empty; add --resume to go on, or choose another --out")
        self.write_config(config)

    def write_config(self, config: DictConfig) -> None:
        """Write the resolved configuration; the run counts as unfinished from here on."""
        write_text(self.path / "config.yaml", OmegaConf.to_yaml(config, resolve=True))
        (self.path / "summary.json").unlink(missing_ok=True)

    def read_config(self) -> DictConfig:
        """The resolved configuration of the run.

        Raises:
            RunFolderError: there is no run here.
        """
        try:
            config = OmegaConf.load(self.path / "config.yaml")
        except OSError as error:
            raise RunFolderError(f"{self.path} holds no run to resume (no config.yaml); leave out --resume") from error
        except (yaml.YAMLError, OmegaConfBaseException, ValueError, RecursionError) as error:
            reason = " ".join(str(error).split())
            raise RunFolderError(f"{self.path / 'config.yaml'} is damaged ({reason}); start a new run") from error
        if not isinstance(config, DictConfig) or not config:
            raise RunFolderError(f"{self.path / 'config.yaml'} is no configuration of a run; start a new run")
        return config

    def write_metrics(self, rows: list[dict[str, Any]]) -> None:
        """Write all evaluations, one JSON object a line."""
        write_text(self.path / "metrics.jsonl", "".join(json_line(row) + "\n" for row in rows))

    def read_metrics(self, until_step: float = math.inf) -> list[dict[str, Any]]:
        """The evaluations up to a step."""
        file = self.path / "metrics.jsonl"
        try:
            lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
            return [row for row in map(json.loads, lines) if row["step"] <= until_step]
        except checkpoint.DAMAGE as error:
            raise RunFolderError(
                f"{file} is damaged ({type(error).__name__}: {error}); delete it to resume without it"
            ) from error

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write ``summary.json``, free of local paths."""
        write_text(self.path / "summary.json", json.dumps(_finite(shareable(summary)), indent=1) + "\n")

    def is_finished(self) -> bool:
        """Whether the run ended by itself."""
        try:
            outcome = json.loads((self.path / "summary.json").read_text(encoding="utf-8"))["outcome"]
        except checkpoint.DAMAGE:
            return False
        return bool(outcome != OutcomeKind.INTERRUPTED.value)

    def write_pictures(self, names: Sequence[str], pictures: Iterable[Tensor]) -> None:
        """Write ``renders/NAME.png`` for each [H, W, 3] picture in 0..1; NAME loses its ending where that is unique."""
        stems = [str(Path(name).with_suffix("")) for name in names]
        names = stems if len(set(stems)) == len(stems) else names

        def write(folder: Path) -> None:
            folder.mkdir()
            for name, picture in zip(names, pictures, strict=True):
                write_png(folder / f"{name.replace('/', '_')}.png", picture)

        write_whole(self.path / "renders", write)

    def save_checkpoint(self, state: RolloutState, sampler: ViewSampler) -> None:
        """Everything needed to go on to the same bits."""
        tensors, numbers = pack_rollout(state)
        sampler_state = sampler.state_dict()
        tensors["generator"] = sampler_state.pop("generator")
        checkpoint.save(self.checkpoint, CHECKPOINT_KIND, tensors, {"rollout": numbers, "sampler": sampler_state})

    def load_checkpoint(self, sampler: ViewSampler, device: torch.device | str = "cpu") -> RolloutState:
        """Restore ``sampler`` and return the state of the run on ``device``."""
        tensors, config = checkpoint.load(self.checkpoint, CHECKPOINT_KIND)
        try:
            sampler.load_state_dict({**config["sampler"], "generator": tensors.pop("generator")})
            tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
            return unpack_rollout(tensors, config["rollout"])
        except UserError:
            raise
        except KeyError as error:
            raise checkpoint.BadCheckpointError(f"{self.checkpoint}: the entry {error} is missing") from error
        except checkpoint.DAMAGE as error:
            raise checkpoint.BadCheckpointError(f"{self.checkpoint}: {error}") from error


def write_png(path: Path, picture: Tensor) -> None:
    """Write a picture [H, W, 3] in 0..1."""
    pixels = (picture.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    Image.fromarray(np.ascontiguousarray(pixels)).save(path)


def json_line(row: Mapping[str, Any]) -> str:
    """Strict JSON: what is not finite becomes null."""
    return json.dumps(_finite(row), allow_nan=False)


def machine() -> dict[str, Any]:
    """Versions and hardware, for the summary."""
    return {
        "learn2splat": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "command": command(),
    }


def _processor() -> str:
    """Model of the processor, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()


def command() -> list[str]:
    """The command as typed, but for local paths."""
    return ["l2s", *shareable_paths(sys.argv[1:])]


def shareable_yaml(config: DictConfig) -> str:
    """A resolved configuration, but for local paths."""
    return OmegaConf.to_yaml(OmegaConf.create(shareable_paths(OmegaConf.to_container(config, resolve=True))))


def newest_unfinished(parent: Path) -> Path | None:
    """The most recent run folder below ``parent`` that has a checkpoint and did not finish."""
    runs = [path.parent.parent for path in parent.glob(f"*/checkpoint/{checkpoint.MANIFEST}")]
    unfinished = [run for run in runs if not RunFolder(run).is_finished()]
    return max(unfinished, key=lambda run: (run / "checkpoint").stat().st_mtime, default=None)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
