"""An optimizer from outside the package: `l2s leaderboard --plugin examples.sign_descent:SignDescent`."""

from learn2splat.optim.base import OptimizerState, as_rows, from_rows, zeros_like
from learn2splat.optim.rates import GroupRates, PowerDecay
from learn2splat.scene.gaussians import GaussianScene


class SignDescent:
    """The sign of the momentum, times a decaying rate per group (Bernstein et al. 2018, signSGD with momentum)."""

    needs = frozenset()
    rates, schedule = GroupRates(), PowerDecay(scale=5.0, power=0.5)

    def init(self, scene):
        return OptimizerState(as_rows("m", zeros_like(scene)))

    def update(self, grads, state, scene, context):
        m = from_rows("m", state).map(lambda old, grad: old.lerp(grad, 0.1), grads)
        rates = self.rates.by_parameter(scene, context)
        steps = (-rates[name] * self.schedule.factor(name, context) * tensor.sign() for name, tensor in m.items())
        return GaussianScene(*steps), OptimizerState(as_rows("m", m))

    def reindex(self, state, lineage):
        return state.take(lineage)
