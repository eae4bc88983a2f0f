"""`l2s meta-train` end to end on a scene of a few pixels: it trains, resumes, and its result optimises a scene."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from learn2splat import checkpoint
from learn2splat.checkpoint import MANIFEST, BadCheckpointError
from learn2splat.config import build, compose
from learn2splat.errors import UserError
from learn2splat.eval.methods import adam_grid, method
from learn2splat.meta.objective import Greedy
from learn2splat.meta.train import CHECKPOINT_KIND
from learn2splat.optim.learned.pretrained import INITIALISER, load_pretrained, save_pretrained
from learn2splat.optim.learned.resplat import RecurrentUpdater
from learn2splat.optim.learned.rule import LearnedRule
from learn2splat.optim.learned.tiny import LearnedGain
from learn2splat.predict.compact import CompactInitialiser
from learn2splat.scene.ply import read_ply
from learn2splat.start import ITERATIONS
from learn2splat.training import meta_train
from tests.test_cli import SCENE, l2s

SMALL = [
    "data.procedural=1",
    "data.views=8",
    "data.width=32",
    "validation.procedural=1",
    "validation.views=8",
    "validation.width=32",
    "validation.settings=[dense]",
    "validation.steps=[2,4]",
    "train.meta_steps=2",
    "train.validate_every=1",
    "estimator.settings.longest_rollout=2",
    "train.samples=1",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rule, a network on top of it and the published network, each trained for two steps."""
    folder = tmp_path_factory.mktemp("meta")
    assert l2s("meta-train", "--out", folder / "rule", "--quiet", *SMALL) == 0
    rule = f"rule={folder / 'rule' / 'optimizer'}"
    assert l2s("meta-train", "--out", folder / "tiny", "--quiet", "trainee=l2s-tiny", rule, *SMALL) == 0
    assert l2s("meta-train", "--out", folder / "faithful", "--quiet", "experiment=faithful", *SMALL) == 0
    return folder


def test_the_manifest_says_how_it_was_made(folder: Path) -> None:
    config = json.loads((folder / "rule" / "optimizer" / MANIFEST).read_text())["config"]
    assert config["architecture"]["_target_"] == "learn2splat.optim.learned.rule.LearnedRule"
    assert config["about"]["config"]["train"]["meta_steps"] == 2
    assert config["about"]["best_score"] >= config["about"]["base_score"] > 5
    assert [row["meta_step"] for row in config["about"]["history"]] == [0, 1, 2]


def test_a_training_is_resumed_with_its_own_settings_only(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    again = ["meta-train", "--out", folder / "rule", "--quiet", *SMALL]
    before = checkpoint.digest_of(folder / "rule" / "checkpoint-0")
    assert l2s(*again, "train.lr=1e-4", "data.first_seed=7") == 2
    said = capsys.readouterr().err
    assert "data.first_seed was 100000 and is 7; train.lr was 0.015 and is 0.0001" in said
    assert "give another out" in said
    assert l2s(*again, "train.validate_every=2") == 0
    assert checkpoint.digest_of(folder / "rule" / "checkpoint-0") == before


def test_paths_and_command_are_recorded_as_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert l2s("scene", "make", "--out", "captures/my room", "--views", "8", "--width", "32") == 0
    typed = ["meta-train", "--out", "run", "--quiet", *SMALL, "data.procedural=0", "data.captures=['captures/my room']"]
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/l2s", *typed])
    assert l2s(*typed) == 0
    manifest = (tmp_path / "run" / "optimizer" / MANIFEST).read_text()
    about = json.loads(manifest)["config"]["about"]
    assert about["command"] == ["l2s", *typed]
    assert about["config"]["data"]["captures"] == ["captures/my room"]
    for text in (manifest, (tmp_path / "run" / "report.html").read_text()):
        assert "captures/my room" in text
        assert str(tmp_path) not in text


def test_without_tensorboard_training_works_and_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert l2s("meta-train", "--out", tmp_path / "run", *SMALL) == 0
    assert capsys.readouterr().out.count("pip install 'learn2splat[tensorboard]'") == 1
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "buffer-0",
        "checkpoint-0",
        "config.yaml",
        "optimizer",
        "report.html",
    }


def test_the_network_carries_its_rule(folder: Path) -> None:
    rule, tiny = (load_pretrained(str(folder / name / "optimizer")) for name in ("rule", "tiny"))
    assert isinstance(rule, LearnedRule)
    assert isinstance(tiny, LearnedGain)
    assert torch.equal(tiny.rule.log_step, rule.log_step)
    assert not tiny.training


@pytest.mark.parametrize("name", ["rule", "tiny", "faithful"])
def test_a_trained_optimizer_optimises_and_resumes(folder: Path, name: str, tmp_path: Path) -> None:
    arguments = ["--scene", SCENE, "--max-gaussians", "100", "--sh-degree", "1", "--quiet"]
    arguments += ["--optimizer", str(folder / name / "optimizer"), "--steps", "6"]
    assert l2s("optimize", *arguments, "--out", tmp_path / "straight") == 0
    assert l2s("optimize", *arguments[:-1], "3", "--out", tmp_path / "cut") == 0
    assert l2s("optimize", "--resume", "--steps", "6", "--quiet", "--out", tmp_path / "cut") == 0
    # the horizon differs, but none of these optimizers looks at it
    assert (tmp_path / "cut" / "point_cloud.ply").read_bytes() == (
        tmp_path / "straight" / "point_cloud.ply"
    ).read_bytes()


def test_damaged_or_missing_weights_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no optimizer 'nothing'"):
        load_pretrained("nothing")
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in (folder / "rule" / "optimizer").iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    (broken / "tensors.safetensors").write_bytes(b"junk")
    with pytest.raises(BadCheckpointError, match="damaged"):
        load_pretrained(str(broken))


def test_methods_have_digests_that_tell_them_apart(folder: Path) -> None:
    digests = [method(name).digest for name in ("adam", "adam-tuned", str(folder / "rule" / "optimizer"))]
    digests += [entry.digest for entry in adam_grid()]
    assert len(set(digests)) == len(digests) == 13
    assert method("adam").digest == digests[0]
    with pytest.raises(UserError, match="no-such"):
        method("no-such")


def test_two_processes_train_one_optimizer(tmp_path: Path) -> None:
    """Under torchrun both processes hold the same weights, from windows of their own."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "learn2splat.cli", "meta-train", "--quiet", "--out", str(tmp_path / "run"), *SMALL]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    tensors = [checkpoint.load(tmp_path / "run" / f"checkpoint-{rank}", CHECKPOINT_KIND)[0] for rank in (0, 1)]
    weights = [name for name in tensors[0] if name.startswith(("weights/", "averaged/"))]
    assert weights
    for name in weights:
        assert torch.equal(tensors[0][name], tensors[1][name]), name
    assert not torch.equal(tensors[0]["generator"], tensors[1]["generator"])
    assert float(tensors[0]["weights/log_step"].abs().max()) > 0
    assert isinstance(load_pretrained(str(tmp_path / "run" / "optimizer")), LearnedRule)


def test_an_initialiser_and_an_updater_on_top_of_it_are_trained_and_used(here: Path) -> None:
    small = [text for text in SMALL if not text.startswith(("estimator.", "validation.s"))]
    small += ["validation.procedural=1", "ranges.views=[2,3]", "trainee.planes=6", "trainee.neighbours=3"]
    assert l2s("meta-train", "--quiet", "--out", "net", "experiment=predict", *small) == 0
    small[-3:] = ["ranges.contexts.views=[2,3]", "initialiser=net/initialiser"]
    assert l2s("meta-train", "--quiet", "--out", "updater", "experiment=resplat", *small) == 0
    net, updater = load_pretrained("net/initialiser", INITIALISER), load_pretrained("updater/optimizer")
    assert isinstance(net, CompactInitialiser)
    assert isinstance(updater, RecurrentUpdater)
    assert torch.equal(net.pyramid.merge.weight, updater.pyramid.merge.weight)
    history = json.loads((here / "updater" / "optimizer" / MANIFEST).read_text())["config"]["about"]["history"]
    assert len({row["score"] for row in history}) > 1
    arguments = ["--scene", SCENE, "--views", "sparse:3", "--steps", "2", "--quiet", "--out", "run"]
    arguments += ["--init", "predict:net/initialiser", "--optimizer", "updater/optimizer"]
    assert l2s("optimize", *arguments) == 0
    assert l2s("meta-train", "--quiet", "--out", "other", "experiment=resplat", "initialiser=nothing", *small[:-1]) == 2
    refined_and_stepped(here)


def refined_and_stepped(here: Path) -> None:
    """A refined prediction is what as many steps of the updater give."""
    scene = ["optimize", "--scene", SCENE, "--views", "sparse:3", "--no-guard", "--average", "off", "--quiet"]
    init = ["--init", "predict:net/initialiser"]
    assert l2s(*scene, *init, "--optimizer", "updater/optimizer", "--steps", str(ITERATIONS), "--out", "stepped") == 0
    init[1] += "+refine:updater/optimizer"
    assert l2s(*scene, *init, "--steps", "0", "--out", "refined") == 0
    stepped, refined, plain = (read_ply(here / run / "point_cloud.ply") for run in ("stepped", "refined", "run"))
    for name, tensor in stepped.items():
        assert torch.equal(tensor, getattr(refined, name)), name
    assert not torch.equal(refined.means, plain.means)
    assert "/updater/optimizer" in (here / "refined" / "config.yaml").read_text()
    assert l2s("optimize", "--resume", "--out", "refined", "--steps", "2", "--quiet") == 0


def test_an_initialiser_is_trained_for_an_optimizer_and_the_optimizer_for_it(here: Path) -> None:
    small = [text for text in SMALL if not text.startswith(("estimator.", "validation.s"))]
    net = [*small, "ranges.views=[2,3]", "trainee.planes=6", "trainee.neighbours=3"]
    assert l2s("meta-train", "--quiet", "--out", "net", "experiment=predict", *net, "train.meta_steps=1") == 0
    net += ["experiment=foresight", "estimator.steps=[2,4]", "credit.stride=2", "horizon=4", "train.lr=1e-2"]
    learned = [*net, "start=net/initialiser", "optimizer@inner=learned-rule"]
    assert l2s("meta-train", "--quiet", "--out", "far", *learned, "train.validate_every=2") == 0
    before, after = (load_pretrained(f"{name}/initialiser", INITIALISER).state_dict() for name in ("net", "far"))
    moved = {name.split(".")[0] for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert moved <= {"head"}
    assert checkpoint.load(here / "far" / "checkpoint-0", CHECKPOINT_KIND)[1]["progress"]["meta_step"] == 2
    pair = [*small, "ranges.contexts.views=[2,3]", "ranges.initialiser.name=far/initialiser", "horizon=4"]
    assert l2s("meta-train", "--quiet", "--out", "pair", "experiment=refine", *pair) == 0
    assert isinstance(load_pretrained("pair/optimizer"), LearnedRule)
    assert l2s("meta-train", "--quiet", "--out", "other", *learned, "only=[tail]") == 2


def test_experiments_compose() -> None:
    greedy = build(compose("meta_train", ["experiment=greedy"]).objective)
    assert isinstance(greedy, Greedy)
    assert greedy.uphill == 1.0
    tiny = compose("meta_train", ["experiment=tiny", "train.lr=1e-4"])
    assert isinstance(build(tiny.trainee), LearnedGain)
    assert (tiny.out, tiny.train.lr) == ("outputs/meta/l2s-tiny", 1e-4)
    faithful = compose("meta_train", ["experiment=faithful"])
    assert sum(p.numel() for p in build(faithful.trainee).parameters()) == 115_189
    assert (build(faithful.objective).uphill, faithful.train.lr) == (1.0, 1e-3)
    assert {build(faithful.estimator.settings).windows.length(step) for step in (0, 50, 5000)} == {6}
    large = compose("meta_train", ["experiment=gpu"])
    assert isinstance(build(large.trainee), LearnedGain)
    assert (large.device, build(large.ranges).gaussians) == ("cuda", [10_000, 100_000])
    for scale in ("", "-gpu"):
        seeing, refining = (compose("meta_train", [f"experiment={name}{scale}"]) for name in ("predict", "resplat"))
        assert seeing.trainee.width == refining.trainee.width
        assert isinstance(build(seeing.trainee), CompactInitialiser)
        assert isinstance(build(refining.trainee), RecurrentUpdater)
        assert build(seeing.ranges).long_side == refining.ranges.contexts.long_side
    fixed = compose("meta_train", ["experiment=g3r"])
    assert isinstance(build(fixed.objective), Greedy)
    assert max(fixed.validation.steps) == fixed.estimator.settings.longest_life == 24


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    """Neither another size nor another network is an exception of torch."""
    sizes = {"_target_": "learn2splat.predict.compact.CompactInitialiser", "planes": 6, "groups": 2, "blocks": 1}
    initialiser = build(OmegaConf.create(sizes | {"width": 8}))
    save_pretrained(initialiser, sizes | {"width": 8}, tmp_path / "net", {}, INITIALISER)

    def refused(*arguments: str) -> str:
        config = compose("meta_train", [*SMALL[:-2], f"out={tmp_path / 'run'}", *arguments])
        with pytest.raises(UserError) as error:
            meta_train(config, stop=lambda: True)
        return str(error.value)

    small = ["experiment=predict", "trainee.width=16", "trainee.planes=6", "trainee.groups=2", "trainee.blocks=1"]
    message = refused(*small, f"start={tmp_path / 'net'}")
    assert "does not fit: across.attended.bias is (16,) here and (8,) there" in message
    assert "merge.bias is (64,) here and (8,) there, and 1 more" in refused(
        "trainee=resplat", f"initialiser={tmp_path / 'net'}"
    )
    assert "LearnedRule has no pyramid" in refused(f"initialiser={tmp_path / 'net'}")
