"""`l2s` as people use it: files, exit codes, interruption and resume."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from learn2splat.api import open_session, optimize
from learn2splat.cli import main, run
from learn2splat.config import build, choices, compose
from learn2splat.files import CannotWriteError
from learn2splat.optim.learned.pretrained import save_pretrained
from learn2splat.optim.rates import GroupRates
from learn2splat.optim.sgd import Sgd
from learn2splat.session import Listener

SCENE = "procedural:seed=3,views=9,width=48"
FAST = ["--scene", SCENE, "--max-gaussians", "300", "--sh-degree", "1", "--batch-views", "2", "--quiet"]


def l2s(*arguments: str | Path) -> int:
    """Run a command in this process; its exit code."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def test_a_run_writes_what_the_contract_names(here: Path) -> None:
    assert l2s("optimize", *FAST, "--steps", "12", "--eval-at", "0,5", "--out", "run", "guard=on") == 0
    run = here / "run"
    names = {path.name for path in run.iterdir()}
    expected = {
        "point_cloud.ply",
        "metrics.jsonl",
        "summary.json",
        "config.yaml",
        "checkpoint",
        "renders",
        "report.html",
    }
    assert names == expected
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 5, 12]
    assert rows[0]["seconds"] == 0
    assert rows[-1]["psnr"] > rows[0]["psnr"]
    assert rows[-1]["split"] == "test"
    assert abs(rows[-1]["seconds"] - rows[-1]["seconds_render"] - rows[-1]["seconds_update"]) < 1e-9
    summary = json.loads((run / "summary.json").read_text())
    assert summary["outcome"] == "ok"
    assert summary["written_scene"] == "best"
    assert summary["views"] == {"train": 6, "probe": 1, "test": 2}  # few views: one of them stands guard
    assert summary["guard"]["mode"] == "on"
    assert summary["guard"]["seconds"] == rows[-1]["seconds_guard"] > 0
    assert summary["guard"]["actions"] == summary["guard"]["base_steps"] == 0
    assert summary["steps"] == 12
    assert summary["last"] == rows[-1]
    page = (run / "report.html").read_text()
    assert "<svg" in page
    assert page.count("data:video/mp4;base64,") == 1
    assert page.count("data:image/jpeg;base64,") == 5 * summary["views"]["test"]
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )
    assert len(list((run / "renders").iterdir())) == summary["views"]["test"]


def test_without_the_guard_all_views_are_optimised_on(here: Path) -> None:
    assert l2s("optimize", *FAST, "--steps", "2", "--no-guard", "--out", "run") == 0
    summary = json.loads((here / "run" / "summary.json").read_text())
    assert summary["written_scene"] == "averaged"
    assert summary["views"] == {"train": 7, "probe": 0, "test": 2}
    assert summary["guard"]["mode"] == "off"


def test_bad_weights_are_guarded_against_and_reported(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = compose("meta_train", ["trainee=learned-rule"]).trainee
    rule = build(config)
    with torch.no_grad():
        rule.log_step[:, : len(rule.log_knots)] = 2.0
    save_pretrained(rule, OmegaConf.to_container(config, resolve=True), here / "bad", {})
    arguments = [argument for argument in FAST if argument != "--quiet"]
    summaries = {}
    for name, flags in {"guarded": [], "blind": ["--no-guard"]}.items():
        assert l2s("optimize", *arguments, "--steps", "20", "--optimizer", here / "bad", "--out", name, *flags) == 0
        summaries[name] = json.loads((here / name / "summary.json").read_text())
    assert summaries["guarded"]["guard"]["mode"] == "lean"
    assert summaries["guarded"]["guard"]["actions"] == 1
    assert summaries["guarded"]["guard"]["base_steps"] >= 10
    assert summaries["guarded"]["last"]["psnr"] > summaries["blind"]["last"]["psnr"] + 3
    assert capsys.readouterr().out.count("guard: the learned optimizer failed") == 1
    assert "the guard acted" in (here / "guarded" / "report.html").read_text()


def test_default_folder_and_json(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [argument for argument in FAST if argument != "--quiet"]
    assert l2s("optimize", *arguments, "--steps", "3", "--json", "--eval-at", "0") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line.get("step") for line in lines[:-1]] == [0, 3]
    assert lines[-1]["outcome"] == "ok"
    folder = Path(lines[-1]["out"])
    assert folder.parts[0] == "outputs"
    assert folder.parts[2] == "l2s"
    assert (here / folder / "point_cloud.ply").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scene", "no/such/folder"], "does not exist"),
        (["--scene", "empty"], "empty folder"),
        (["--scene", "junk"], "junk"),
        (["--scene", "procedural:sead=3"], "sead"),
        (["--scene", SCENE, "--optimizer", "adamm"], "adamm"),
        (["--scene", SCENE, "--steps", "-1"], "steps=-1"),
        (["--scene", SCENE, "--views", "sparse:99"], "sparse:99"),
        (["--scene", SCENE, "--views", "few"], "sparse:K"),
        (["--scene", SCENE, "--init", "ply:none.ply"], "no such file"),
        (["--scene", SCENE, "--init", "magic"], "auto, sfm, hull, random, ply:FILE or predict[:FOLDER]"),
        (["--scene", SCENE, "loss.ssim_wait=1"], "ssim_wait"),
        (["--scene", SCENE, "loss.ssim_weight=7"], "0..1"),
        (["--scene", SCENE, "optimizer._target_=os.system"], "not allowed"),
        (["--scene", SCENE, "--eval-at", "1,x"], "--eval-at"),
        (["--scene", SCENE, "stepz"], "GROUP.KEY=VALUE"),
        (["--scene", SCENE, "--max-size", "0"], "max_size=0"),
        (["--scene", SCENE, "max_size=abc"], "max_size='abc'"),
        (["--scene", SCENE, "seed=null"], "seed=None"),
        (["--scene", SCENE, "sh_degree=true"], "sh_degree=True"),
        (["--scene", SCENE, "background=3"], "background=3"),
        (["--scene", SCENE, "eval_at=5"], "eval_at=5"),
        (["--scene", SCENE, "checkpoint_seconds=abc"], "checkpoint_seconds"),
        (["--scene", SCENE, "optimizer=adam", "optimizer.rates.means=abc"], "the rate of means is 'abc'"),
        (["--scene", SCENE, "renderer.settings.near=abc", "renderer=cpu"], "near"),
        (["--scene", SCENE, "loss=null"], "loss"),
        (["--scene", SCENE, "--densify", "sometimes"], "sometimes"),
        (["--scene", SCENE, "--densify", "mcmc", "densify.grow=2"], "grow"),
        (["--scene", SCENE, "densify.prune_opacity=0.5"], "prune_opacity"),
        (["--scene", SCENE, "sh_every=-1"], "sh_every=-1"),
        (["--scene", SCENE, "--optimizer", "../loss/photometric"], "no optimizer"),
        (["--scene", SCENE, "--out", ""], "out"),
        (["--scene", "${z}"], "'${'"),
        (["--scene", "back\\slash"], "back\\slash"),
        (["--scene", SCENE, "--no-such-flag"], "--no-such-flag"),
        ([], "--scene"),
    ],
)
def test_bad_input_is_one_clear_message_and_no_folder(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    (here / "empty").mkdir()
    (here / "junk").mkdir()
    (here / "junk" / "notes.txt").write_text("nothing")
    assert l2s("optimize", *arguments, "--quiet") == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert not (here / "outputs").exists()


@pytest.mark.parametrize("values", [("--views", "2"), ("--width", "8"), ("--height", "5000"), ("--seed", "-1")])
def test_bad_values_of_a_made_scene_are_bad_input(
    here: Path, capsys: pytest.CaptureFixture[str], values: tuple[str, str]
) -> None:
    assert l2s("scene", "make", "--out", "made", *values) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert not (here / "made").exists()


@pytest.mark.parametrize("group", ["sampler", "renderer", "loss", "densify"])
def test_every_choice_of_a_group_runs(here: Path, group: str) -> None:
    for name in choices(group):
        if name != "gsplat":
            assert l2s("optimize", *FAST, "--steps", "1", "--out", name, f"{group}={name}") == 0


@pytest.mark.parametrize("name", ["with space, and=comma", "ünï'code", "[brackets]{braces}"])
def test_any_name_of_a_folder_will_do(here: Path, name: str) -> None:
    assert l2s("scene", "make", "--out", name, "--views", "4", "--width", "32") == 0
    assert l2s("optimize", "--scene", name, "--steps", "1", "--quiet", "--out", f"{name}/run") == 0


@pytest.fixture
def colmap_scene(tmp_path: Path) -> Path:
    assert l2s("scene", "make", "--out", tmp_path / "made", "--views", "6", "--width", "48") == 0
    return tmp_path / "made"


def test_a_made_scene_is_a_colmap_folder(colmap_scene: Path, here: Path) -> None:
    assert l2s("optimize", "--scene", colmap_scene, "--steps", "2", "--quiet", "--out", "run") == 0
    assert l2s("scene", "make", "--out", colmap_scene) == 2


def test_truncated_cameras_and_junk_photos_are_bad_input(
    colmap_scene: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cameras = colmap_scene / "sparse" / "0" / "cameras.bin"
    content = cameras.read_bytes()
    cameras.write_bytes(content[:-5])
    assert l2s("optimize", "--scene", colmap_scene, "--quiet") == 2
    assert "cameras.bin" in capsys.readouterr().err
    cameras.write_bytes(content)
    for photo in (colmap_scene / "images").iterdir():
        photo.write_bytes(b"junk")
    assert l2s("optimize", "--scene", colmap_scene, "--quiet") == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert not (here / "outputs").exists()


def test_a_photo_damaged_inside_is_bad_input_before_a_folder_is_made(
    colmap_scene: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = sorted((colmap_scene / "images").iterdir())[1]
    content = bytearray(photo.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 40] = bytes(40)
    photo.write_bytes(content)
    assert l2s("optimize", "--scene", colmap_scene, "--quiet", "--steps", "1", "--out", "run") == 2
    assert photo.name in capsys.readouterr().err
    assert not (here / "run").exists()


def test_a_run_can_be_resumed_from_another_folder(
    colmap_scene: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(colmap_scene.parent)
    assert l2s("optimize", "--scene", colmap_scene.name, "--steps", "1", "--quiet", "--out", "run") == 0
    monkeypatch.chdir("/")
    run = colmap_scene.parent / "run"
    assert l2s("optimize", "--resume", "--steps", "3", "--quiet", "--out", run) == 0
    assert l2s("optimize", "--resume", "--quiet", "--scene", colmap_scene, "--out", run) == 0
    assert "steps: 3" in (run / "config.yaml").read_text()
    assert json.loads((run / "summary.json").read_text())["steps"] == 3


@pytest.mark.parametrize("damage", ["config.yaml", "metrics.jsonl"])
def test_a_damaged_run_folder_is_named(here: Path, capsys: pytest.CaptureFixture[str], damage: str) -> None:
    assert l2s("optimize", *FAST, "--steps", "1", "--out", "run") == 0
    (here / "run" / damage).write_text("{ not: [valid")
    assert l2s("optimize", "--resume", "--steps", "2", "--quiet", "--out", "run") == 2
    assert damage in capsys.readouterr().err


def test_a_run_with_an_object_from_python_says_that_it_cannot_be_resumed(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    optimize(SCENE, optimizer=Sgd(GroupRates()), steps=1, max_gaussians=50, out="run")
    assert "given_in_python: Sgd" in (here / "run" / "config.yaml").read_text()
    assert l2s("optimize", "--resume", "--steps", "2", "--quiet", "--out", "run") == 2
    assert "given_in_python" in capsys.readouterr().err


def test_overrides_are_looked_at_when_the_newest_run_is_resumed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stopped = iter(range(3))
    session = open_session({"scene": SCENE, "max_gaussians": 50, "steps": 100})
    session.run(Listener(), lambda: next(stopped, None) is None)
    assert l2s("optimize", "--scene", SCENE, "--max-gaussians", "50", "--resume", "--quiet", "seed=77") == 2
    assert "seed" in capsys.readouterr().err
    assert l2s("optimize", "scene=" + SCENE, "--resume", "--quiet", "steps=5") == 0
    folder = next((here / "outputs").glob("*/l2s/*"))
    assert json.loads((folder / "summary.json").read_text())["steps"] == 5
    rows = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert rows == sorted(set(rows))


def test_an_existing_run_is_not_overwritten(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert l2s("optimize", *FAST, "--steps", "1", "--out", "run") == 0
    before = (here / "run" / "point_cloud.ply").read_bytes()
    assert l2s("optimize", *FAST, "--steps", "2", "--out", "run") == 2
    assert "--resume" in capsys.readouterr().err
    assert (here / "run" / "point_cloud.ply").read_bytes() == before


def test_more_steps_can_be_added_and_other_changes_not(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert l2s("optimize", *FAST, "--steps", "2", "--out", "run") == 0
    assert l2s("optimize", "--out", "run", "--resume", "--batch-views", "3", "--quiet") == 2
    assert "batch_views" in capsys.readouterr().err
    assert l2s("optimize", "--out", "run", "--resume", "--steps", "5", "--quiet") == 0
    assert json.loads((here / "run" / "summary.json").read_text())["steps"] == 5
    assert l2s("optimize", "--out", "run", "--resume", "--steps", "505", "--quiet") == 0  # long enough for a guard
    assert json.loads((here / "run" / "summary.json").read_text())["views"]["probe"] == 0
    assert l2s("optimize", "--out", "nothing", "--resume", "--quiet") == 2


def test_a_missing_backend_is_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    assert l2s("optimize", *FAST, "--renderer", "gsplat") == 5
    assert "gsplat" in capsys.readouterr().err
    assert l2s("optimize", *FAST, "--device", "cuda") == 5


def test_divergence_still_writes_the_best_scene(here: Path) -> None:
    wild = ["optimizer=adam", "optimizer.rates.sh0=50", "optimizer.rates.logit_opacities=50"]
    assert l2s("optimize", *FAST, "--steps", "300", "--out", "run", *wild) == 3
    assert json.loads((here / "run" / "summary.json").read_text())["outcome"] in ("diverged", "nonfinite")
    assert (here / "run" / "point_cloud.ply").is_file()


def test_cannot_write_is_told(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "file").write_text("in the way")
    assert l2s("optimize", *FAST, "--steps", "1", "--out", "file/run") == 5
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "a.jpg"), 2, "'a.jpg'; check that it is there"),
        (OSError(errno.EIO, "Input/output error", "a.jpg"), 2, "'a.jpg'; check that it is there"),
        (OSError(errno.ENOSPC, "No space left on device"), 5, "free some space, or name another"),
        (CannotWriteError(errno.EACCES, "Permission denied", "run"), 5, "'run'; make the folder writable, or name"),
        (CannotWriteError(errno.ENOTDIR, "Not a directory", "run"), 5, "'run'; name another with --out"),
        (CannotWriteError("rows.sqlite cannot be written"), 5, "; free some space, make the folder writable, or"),
    ],
)
def test_reading_and_writing_fail_with_a_code_and_a_remedy_each(
    error: OSError, code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    assert run(fail) == code
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_and_resumed_writes_the_same_ply(here: Path, number: signal.Signals) -> None:
    """A stopped run continues from its last step, a killed one from its last checkpoint: the same bytes either way."""
    arguments = [*FAST, "--steps", "150", "--eval-at", "0,10,20", "checkpoint_seconds=0"]
    assert l2s("optimize", *arguments, "--out", "straight") == 0
    command = [sys.executable, "-m", "learn2splat.cli", "optimize", *arguments, "--out", "cut"]
    process = subprocess.Popen(command, cwd=here, env=os.environ | {"OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 120
    while not (here / "cut" / "checkpoint" / "manifest.json").exists():
        assert process.poll() is None, "it ended before it could be interrupted"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    code = process.wait(timeout=60)
    assert code == (-9 if number == signal.SIGKILL else 128 + number)
    if number != signal.SIGKILL:
        assert json.loads((here / "cut" / "summary.json").read_text())["outcome"] == "interrupted"
    assert l2s("optimize", "--out", "cut", "--resume", "--quiet") == 0
    assert (here / "cut" / "point_cloud.ply").read_bytes() == (here / "straight" / "point_cloud.ply").read_bytes()


def test_help_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert l2s("optimize", "--help") == 0
    assert "Examples" in capsys.readouterr().out
    assert l2s("--help") == 0
    assert l2s("doctor") == 0
    assert "renderers" in capsys.readouterr().out
