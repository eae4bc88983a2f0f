"""When a learned optimizer leans on its base: decided from losses alone, nothing is rendered here.

Two checks; after a failed one the base steps alone, until a later trial in which the learned step does better.

- Trials, at doubling steps: does the learned step lower the loss of the very views that it was computed from, or else
  do no worse than the base's? If not, the base's step is taken. The first trials, before there is an alarm, ask for a
  share of what the base's step gains: what is spoilt then is never quite mended.
- The alarm, at every step: has the running loss risen above its lowest by more than noise explains? Or has the loss of
  views that are not optimised on, where there are any, risen twice in a row? Then the run goes back to its best scene.

Other safeguards fall back on a conventional step likewise, but compare both at every step or along two trajectories
(Heaton et al. 2023, "Safeguarded learned convex optimization"; Premont-Schwarz et al. 2022, "A simple guard for learned
optimizers").
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

MEMORY = 0.95
"""Decay of the running loss per step."""
NOISE_MEMORY = 0.99
"""Decay of the noise estimate per step."""
ALARM = 10.0
"""Standard errors by which the running loss must have risen; over 5,000 steps of white noise it wanders by 8."""
TINY = 1e-12
SETTLED = 20
"""Losses before the running loss means anything."""
TRIAL_GROWTH = 2
"""Factor between two steps at which the learned step is tried."""
RISES = 2
"""Looks at the probe views in a row after which a rising loss counts."""
EARLY_SHARE = 0.25
"""Share of the base's gain that an early learned step must reach; rules that end well reached a half and more."""
RETRIAL_STEPS = 10
"""Steps at least before a distrusted one is tried again."""


@dataclass(frozen=True)
class Guard:
    """What the guard knows; a pure function of the losses it was told.

    Args:
        trust: for `StepContext.trust`; 1, or 0 while the base optimizer steps alone.
        trial_step: when the learned step is tried next.
        actions: how often trust was withdrawn.
        base_steps: steps that the base optimizer made alone.
        mean: running loss since trust was last given, or the Gaussians last changed; infinite before the first loss.
        lowest: the lowest it was.
        newest: the newest loss.
        losses: how many there were since then.
        noise: relative variance of a loss; from differences of successive ones, which a trend hardly enters.
        rises: looks at the probe views in a row at which their loss had risen.
        seconds: time that trials and looks at probe views took.
    """

    trust: float = 1.0
    trial_step: int = 0
    actions: int = 0
    base_steps: int = 0
    mean: float = math.inf
    lowest: float = math.inf
    newest: float = math.inf
    losses: int = 0
    noise: float = 0.0
    rises: int = 0
    seconds: float = 0.0

    def observe(self, loss: float) -> Guard:
        """After a step whose batch had ``loss`` before it."""
        base_steps = self.base_steps + (self.trust == 0)
        if not self.losses:
            return replace(self, mean=loss, newest=loss, losses=1, base_steps=base_steps)
        change = math.log((loss + TINY) / (self.newest + TINY))
        square = min(change**2 / 2, 1.0)  # of two losses that differ by noise alone; one jump must not deafen the alarm
        noise = self.noise + max(1 - NOISE_MEMORY, 1 / self.losses) * (square - self.noise)
        losses = self.losses + 1
        mean = self.mean + max(1 - MEMORY, 2 / (losses + 1)) * (loss - self.mean)
        lowest = min(self.lowest, mean) if losses >= SETTLED else math.inf
        return replace(self, mean=mean, lowest=lowest, newest=loss, losses=losses, noise=noise, base_steps=base_steps)

    @property
    def margin(self) -> float:
        """Factor above its lowest from which a running loss counts as risen."""
        return 1 + ALARM * math.sqrt(self.noise * (1 - MEMORY) / (1 + MEMORY))

    @property
    def alarmed(self) -> bool:
        """Whether the learned optimizer has made things worse."""
        return self.trust > 0 and (self.mean > self.margin * self.lowest or self.rises >= RISES)

    def anew(self) -> Guard:
        """Without the course of the loss so far: a new one begins."""
        return replace(self, mean=math.inf, lowest=math.inf, losses=0)

    def passes(self, before: float, learned: float, base: float | None = None) -> bool:
        """Whether the learned step passes a trial; without ``base``, whether that is clear already.

        Args:
            before: loss of a batch of views.
            learned, base: what the learned and the base optimizer's step would make of it.
        """
        lowers = self.trust > 0 and learned <= before
        if base is None:
            return lowers and self.losses >= SETTLED
        return before - learned >= (EARLY_SHARE if lowers else 1.0) * (before - base)

    def trust_in(self, step: int) -> Guard:
        """After a trial at ``step`` that the learned step passed."""
        trial_step = max(step + 1, TRIAL_GROWTH * step)
        if self.trust == 1:
            return replace(self, trial_step=trial_step)
        return replace(self.anew(), trust=1.0, trial_step=trial_step, rises=0)

    def lean(self, step: int) -> Guard:
        """After a trial at ``step`` that it failed, or an alarm."""
        trial_step = max(step + RETRIAL_STEPS, TRIAL_GROWTH * step)
        return replace(self, trust=0.0, trial_step=trial_step, actions=self.actions + (self.trust > 0))

    def look(self, before: float, after: float) -> Guard:
        """After a look at the probe views: their loss, and what it was at the look before."""
        return replace(self, rises=self.rises + 1 if after > before else 0)
