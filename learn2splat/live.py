"""What the live viewer shows of a run, and what it lets a person do to it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from learn2splat.data.base import BadSceneError, SceneData
from learn2splat.data.sources import load_scene
from learn2splat.estimate import Estimate
from learn2splat.optim.scaled import ScaledUpdates
from learn2splat.rollout_state import StepRecord
from learn2splat.session import Listener, Result, Session
from learn2splat.viewer import Page, Placement, viewing_depth
from learn2splat.viewing import Viewing

SHARE = 0.02
"""Share of a run's time that refreshing the page may take."""
REFRESH_SECONDS = 0.2
"""Least time between two refreshes."""
POLL_SECONDS = 0.05
MOST_FACTOR = 4.0


class Listeners(Listener):
    """Several listeners as one, in their order."""

    def __init__(self, listeners: Sequence[Listener]) -> None:
        self.listeners = listeners

    def on_start(self, session: Session) -> None:
        for listener in self.listeners:
            listener.on_start(session)

    def on_step(self, record: StepRecord) -> None:
        for listener in self.listeners:
            listener.on_step(record)

    def on_estimate(self, estimate: Estimate) -> None:
        for listener in self.listeners:
            listener.on_estimate(estimate)

    def on_metrics(self, row: Mapping[str, Any]) -> None:
        for listener in self.listeners:
            listener.on_metrics(row)

    def on_end(self, result: Result) -> None:
        for listener in self.listeners:
            listener.on_end(result)

    def on_abort(self) -> None:
        for listener in self.listeners:
            listener.on_abort()


class Gate:
    """Lets steps through, one at a time, or none."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._paused, self._granted = False, 0

    @property
    def is_paused(self) -> bool:
        return self._paused

    def pause(self) -> None:
        """No step from now on."""
        with self._lock:
            self._paused, self._granted = True, 0

    def step(self) -> None:
        """One more step, then none."""
        with self._lock:
            self._paused, self._granted = True, self._granted + 1

    def resume(self) -> None:
        """All steps again."""
        with self._lock:
            self._paused, self._granted = False, 0

    def passes(self) -> bool:
        """Whether the next step may be taken; a granted one is used up by asking."""
        with self._lock:
            if self._paused and self._granted == 0:
                return False
            self._granted = max(0, self._granted - 1)
            return True


class LiveView(Listener):
    """Shows a run on a page while it goes on, with buttons that hold it and sliders that scale its updates.

    While nobody moves a slider the run computes the same bits as without a viewer. What is shown is the scene that
    would be written. Nothing is sent while no browser shows the page; else a refresh waits until it costs no more than
    `SHARE` of the time.

    Args:
        address: ``HOST:PORT`` to serve at.
        stop: whether the run is to end; asked while it is held.
        announce: told the page's address.
    """

    def __init__(self, address: str, stop: Callable[[], bool], announce: Callable[[str], object]) -> None:
        self.address, self.stop, self.announce = address, stop, announce
        self.gate = Gate()
        self.page: Page | None = None
        self.last: StepRecord | None = None
        self.due = 0.0

    def on_start(self, session: Session) -> None:
        self.session = session
        cameras, scene = session.scene_loss.cameras, session.rollout.state.output
        self.page = Page(self.address, Placement.around(scene.means))
        shown_train = [*session.train, *session.probe]
        self.page.show_views(session.data, shown_train, session.test, viewing_depth(cameras.take(shown_train), scene))
        self.knobs = ScaledUpdates(session.rollout.optimizer)
        session.rollout.optimizer = self.knobs
        self._add_controls()
        self._refresh()
        self.announce(self.page.url)

    def on_step(self, record: StepRecord) -> None:
        self.last = record
        watched = self.page is not None and self.page.is_watched
        if watched and time.monotonic() >= self.due:
            self._refresh()
        if self.gate.is_paused and not self.gate.passes():
            self._refresh()
            while not self.gate.passes() and not self.stop():
                time.sleep(POLL_SECONDS)

    def on_metrics(self, row: Mapping[str, Any]) -> None:
        if self.page is not None:
            self.page.show_curve([(row["step"], row["psnr"]) for row in self.session.metrics])

    def on_end(self, result: Result) -> None:
        self._close()

    def on_abort(self) -> None:
        self._close()

    def _close(self) -> None:
        if self.page is not None:
            self.page.close()
        self.page = None

    def _refresh(self) -> None:
        assert self.page is not None
        started = time.monotonic()
        self.page.show(self.session.rollout.state.output)
        self.page.text.content = self._status()
        finished = time.monotonic()
        self.due = finished + max(REFRESH_SECONDS, (finished - started) / SHARE)

    def _status(self) -> str:
        state, metrics = self.session.rollout.state, self.session.metrics
        lines = [f"**step {state.step:,}** ({self.session.progress:.0%}){' (paused)' if self.gate.is_paused else ''}"]
        if self.last is not None:
            lines.append(f"loss {state.running_loss:.4f}, {state.step / max(state.seconds, 1e-9):.1f} steps/s")
        if metrics:
            best = max(row["psnr"] for row in metrics)
            lines.append(f"PSNR {metrics[-1]['psnr']:.2f} dB at step {metrics[-1]['step']:,}, best {best:.2f} dB")
        return "\n\n".join([*lines, f"{len(state.scene):,} Gaussians"])

    def _add_controls(self) -> None:
        assert self.page is not None
        gui = self.page.server.gui
        for label, act in {"pause": self.gate.pause, "step": self.gate.step, "resume": self.gate.resume}.items():
            self._on_click(gui.add_button(label), act)
        with gui.add_folder("factor on the optimizer's update, by group", expand_by_default=False):
            for name in self.knobs.factors:
                self._on_update(gui.add_slider(name, 0.0, MOST_FACTOR, 0.05, 1.0), name)

    def _on_click(self, button: Any, act: Callable[[], None]) -> None:
        button.on_click(lambda event: act())

    def _on_update(self, slider: Any, name: str) -> None:
        slider.on_update(lambda event: self._scale(name, slider.value))

    def _scale(self, name: str, factor: float) -> None:
        self.knobs.factors[name] = factor
        step = self.session.rollout.state.step
        self.session.interventions.append(f"from step {step} on, updates of {name} x {factor:g}")


def view(viewing: Viewing, address: str, stop: Callable[[], bool], announce: Callable[[str], object]) -> None:
    """Show a finished scene until ``stop``.

    Args:
        viewing: the scene; the cameras of its capture are shown as well.
        address: ``HOST:PORT`` to serve at.
        stop: asked again and again.
        announce: told the page's address, and what cannot be shown.

    Raises:
        UserError: the capture is bad.
        BackendMissingError: viser is not installed.
    """
    scene, data = viewing.scene, _capture(viewing, announce)
    metrics = viewing.run.read_metrics() if viewing.run else []
    page = Page(address, Placement.around(scene.means))
    try:
        page.show(scene)
        page.text.content = (
            f"**{viewing.run.path.name if viewing.run else viewing.ply.name}**\n\n{len(scene):,} Gaussians"
        )
        if metrics:
            page.text.content += f"\n\nPSNR {metrics[-1]['psnr']:.2f} dB at step {metrics[-1]['step']:,}"
            page.show_curve([(row["step"], row["psnr"]) for row in metrics])
        if data is not None:
            page.show_views(data, data.train, data.test, viewing_depth(data.cameras.take(list(data.train)), scene))
        announce(page.url)
        while not stop():
            time.sleep(POLL_SECONDS)
    finally:
        page.close()


def _capture(viewing: Viewing, announce: Callable[[str], object]) -> SceneData | None:
    """The capture to show beside the Gaussians, if there is one; that of a run may be gone, one that is named not."""
    if not viewing.has_capture:
        return None
    config = viewing.config
    try:
        return load_scene(config.scene, max_size=config.max_size, test_every=config.test_every)
    except BadSceneError as error:
        if viewing.run is None or config.scene != viewing.run.read_config().scene:
            raise
        announce(f"without cameras: {error}")
        return None
