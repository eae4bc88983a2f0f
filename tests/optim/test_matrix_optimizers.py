"""Muon, SOAP and Adafactor, which see a parameter as a matrix [n, w]."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from learn2splat.optim.adafactor import Adafactor
from learn2splat.optim.adam import Adam
from learn2splat.optim.base import OptimizerState, SceneOptimizer, apply_update, zeros_like
from learn2splat.optim.matrices import natural_matrix
from learn2splat.optim.muon import COEFFICIENTS, ITERATIONS, Muon, orthogonalised
from learn2splat.optim.rates import GroupRates, PowerDecay
from learn2splat.optim.soap import Soap
from learn2splat.scene.gaussians import GaussianScene
from tests.conftest import random_scene
from tests.optim.test_optimizers import assert_same, context

N = 30
RATES = GroupRates(means=0.02)
SCHEDULE = PowerDecay(3.0, 20.0, 0.5)
STEPS = 25


def gradients(step: int) -> GaussianScene:
    """Of very different sizes from Gaussian to Gaussian, as real ones are."""
    sizes = torch.logspace(-4, 0, N, dtype=torch.float64)
    return random_scene(N, seed=step + 100).map(lambda g: g * sizes.view(-1, *[1] * (g.ndim - 1)))


def random_matrix(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def turned(scene: GaussianScene, rotations: Mapping[str, torch.Tensor]) -> GaussianScene:
    return GaussianScene(*((natural_matrix(t) @ rotations[name]).view_as(t) for name, t in scene.items()))


def some_rotations() -> dict[str, torch.Tensor]:
    widths = {"means": 3, "log_scales": 3, "quats": 4, "logit_opacities": 1, "sh": 3}
    return {name: torch.linalg.qr(random_matrix(w, w, seed)).Q for seed, (name, w) in enumerate(widths.items())}


def total_update(optimizer: SceneOptimizer, rotations: Mapping[str, torch.Tensor] | None = None) -> GaussianScene:
    scene = random_scene(N)
    state, total = optimizer.init(scene), zeros_like(scene)
    for step in range(STEPS):
        grads = gradients(step) if rotations is None else turned(gradients(step), rotations)
        update, state = optimizer.update(grads, state, scene, context(step, N))
        total = apply_update(total, update)
    return total


def test_the_natural_matrix_has_gaussians_and_harmonics_as_rows() -> None:
    scene = random_scene(N)
    assert natural_matrix(scene.quats) is not scene.quats
    assert natural_matrix(scene.logit_opacities).shape == (N, 1)
    assert torch.equal(natural_matrix(scene.sh)[16 * 4 + 2], scene.sh[4, 2])
    assert natural_matrix(random_scene(0).sh).shape == (0, 3)


@pytest.mark.parametrize(("rows", "columns"), [(200, 3), (200, 4), (500, 48), (7, 1), (5, 9)])
def test_newton_schulz_on_the_gram_matrix_is_newton_schulz(rows: int, columns: int) -> None:
    """Against the iteration on the matrix itself; all singular values land in the band of the quintic."""
    matrix = random_matrix(rows, columns) * torch.logspace(-1, 0, columns, dtype=torch.float64)
    plain = matrix / matrix.norm()
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = plain.mT @ plain
        plain = a * plain + plain @ (b * gram + c * gram @ gram)
    ours = orthogonalised(matrix)
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-10)
    values = torch.linalg.svdvals(ours)
    assert float(values.min()) > 0.68
    assert float(values.max()) < 1.21
    exact = torch.linalg.svd(matrix, full_matrices=False)
    torch.testing.assert_close(  # the singular vectors stay
        exact.U.mT @ ours @ exact.Vh.mT, torch.diag(torch.diagonal(exact.U.mT @ ours @ exact.Vh.mT)), rtol=0, atol=1e-9
    )


def test_orthogonalising_knows_no_size_and_keeps_zero() -> None:
    matrix = random_matrix(50, 3).float()
    for size in (1e-12, 1e6):
        torch.testing.assert_close(orthogonalised(size * matrix), orthogonalised(matrix), rtol=1e-5, atol=1e-7)
    assert not orthogonalised(torch.zeros(50, 3)).any()
    assert orthogonalised(torch.zeros(0, 3)).shape == (0, 3)


def test_orthogonalising_costs_in_proportion_to_the_rows() -> None:
    def flops(rows: int) -> int:
        with FlopCounterMode(display=False) as counter:
            orthogonalised(random_matrix(rows, 48))
        return counter.get_total_flops()

    once, twice, thrice = (flops(rows) for rows in (1000, 2000, 3000))
    assert thrice - twice == twice - once == 1000 * 2 * 2 * 48 * 48


def test_muon_steps_are_as_large_as_adams() -> None:
    """Root mean square 0.2 of the step size, times the singular values that Newton-Schulz leaves (Liu et al. 2025)."""
    optimizer, scene = Muon(RATES), random_scene(N)
    update, _ = optimizer.update(gradients(0), optimizer.init(scene), scene, context(0, N))
    for name in ("log_scales", "quats", "logit_opacities"):
        rms = float(getattr(update, name).square().mean().sqrt())
        assert 0.2 * 0.68 <= rms / getattr(RATES, name) <= 0.2 * 1.21, name


def test_one_step_of_muon_goes_against_nesterovs_momentum() -> None:
    optimizer, scene = Muon(RATES, momentum=0.8), random_scene(N)
    _, state = optimizer.update(gradients(0), optimizer.init(scene), scene, context(0, N))
    update, _ = optimizer.update(gradients(1), state, scene, context(1, N))
    buffer = 0.8 * gradients(0).quats + gradients(1).quats
    direction = orthogonalised(gradients(1).quats + 0.8 * buffer)
    torch.testing.assert_close(update.quats, -RATES.quats * 0.2 * N**0.5 * direction, rtol=1e-12, atol=0)


@pytest.mark.parametrize("optimizer", [Muon(RATES, SCHEDULE), Soap(Adam(RATES, SCHEDULE, damping=0.3), every=4)])
def test_rotating_the_columns_rotates_the_updates(optimizer: SceneOptimizer) -> None:
    rotations = some_rotations()
    expected = turned(total_update(optimizer), rotations)
    found = total_update(optimizer, rotations)
    for name, tensor in expected.items():
        torch.testing.assert_close(getattr(found, name), tensor, rtol=0, atol=1e-9 * float(tensor.abs().max()))
    adam = Adam(RATES, SCHEDULE)
    difference = turned(total_update(adam), rotations).means - total_update(adam, rotations).means
    assert float(difference.abs().max()) > 1e-3, "the law would say nothing if Adam obeyed it too"


@pytest.mark.parametrize("damping", [0.0, 0.3])
def test_soap_on_uncorrelated_columns_is_adam(damping: float) -> None:
    """With one non-zero column per row the second moments G^T G are diagonal, and the eigenbasis is that of the axes.

    The other columns are zero, so that a large eps has to keep rounding (1e-16) from becoming a step.
    """
    adam, scene = Adam(RATES, SCHEDULE, eps=1e-3, damping=damping), random_scene(N)
    optimizers: list[SceneOptimizer] = [adam, Soap(adam, every=3)]
    states, scenes = [optimizer.init(scene) for optimizer in optimizers], [scene, scene]

    def one_column(tensor: torch.Tensor) -> torch.Tensor:
        matrix = natural_matrix(tensor)
        column = torch.arange(len(matrix)) % matrix.shape[1]
        return (matrix * torch.nn.functional.one_hot(column, matrix.shape[1])).view_as(tensor)

    for step in range(STEPS):
        grads = gradients(step).map(one_column)
        for i, optimizer in enumerate(optimizers):
            update, states[i] = optimizer.update(grads, states[i], scenes[i], context(step, N))
            scenes[i] = apply_update(scenes[i], update)
    assert_same(scenes[1], scenes[0], 1e-12)


def test_soap_finds_the_eigenvectors() -> None:
    """Gradients of one anisotropic distribution: after some iterations the basis diagonalises their second moments."""
    mixing = random_matrix(4, 4, seed=3)
    optimizer, scene = Soap(Adam(RATES, beta2=0.99), every=1), random_scene(N)
    state = optimizer.init(scene)
    for step in range(200):
        grads = GaussianScene(*(t for _, t in random_scene(N, seed=step + 1).items()))
        grads = GaussianScene(grads.means, grads.log_scales, grads.quats @ mixing, grads.logit_opacities, grads.sh)
        _, state = optimizer.update(grads, state, scene, context(step, N))
    basis = state.shared["basis.quats"]
    torch.testing.assert_close(basis.mT @ basis, torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-12)
    rotated = basis.mT @ state.shared["second.quats"] @ basis
    off_diagonal = rotated - torch.diag(torch.diagonal(rotated))
    assert float(off_diagonal.abs().max()) < 0.02 * float(torch.diagonal(rotated).max())


def test_soap_resumes_to_the_bit_across_a_change_of_basis() -> None:
    """Through contiguous copies, as a checkpoint makes them."""
    optimizer, scene = Soap(Adam(RATES, SCHEDULE), every=5), random_scene(N, dtype=torch.float32)
    straight = resumed = optimizer.init(scene)
    for step in range(12):
        grads = gradients(step).to(dtype=torch.float32)
        resumed = OptimizerState(
            {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in resumed.rows.items()},
            {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in resumed.shared.items()},
        )
        one, straight = optimizer.update(grads, straight, scene, context(step, N))
        two, resumed = optimizer.update(grads, resumed, scene, context(step, N))
        assert all(map(torch.equal, one.tensors(), two.tensors()))


@pytest.mark.parametrize("width", [3, 4])
def test_adafactor_is_torch_adafactor_but_for_the_step_size(width: int) -> None:
    """torch multiplies the same direction by rms(parameter) min(lr, 1 / sqrt(t))."""
    parameter = torch.nn.Parameter(random_matrix(N, width))
    theirs = torch.optim.Adafactor([parameter], lr=1e-2)
    name = {3: "log_scales", 4: "quats"}[width]
    ours, scene = Adafactor(RATES), random_scene(N)
    state = ours.init(scene)
    for step in range(STEPS):
        grads = gradients(step)
        update, state = ours.update(grads, state, scene, context(step, N))
        before = parameter.detach().clone()
        parameter.grad = getattr(grads, name).clone()
        theirs.step()
        size = float(before.square().mean().sqrt()) * min(1e-2, (step + 1) ** -0.5)
        expected = (parameter.detach() - before) / size
        torch.testing.assert_close(getattr(update, name) / getattr(RATES, name), expected, rtol=1e-9, atol=1e-12)


def test_adafactor_of_a_single_column_keeps_every_second_moment() -> None:
    """Opacities [n, 1]: rows are numbers, so that nothing is lost; closed form with the decay 1 - t^-0.8."""
    optimizer, scene = Adafactor(RATES, clip=1e9), random_scene(N)
    state, second = optimizer.init(scene), torch.zeros(N, dtype=torch.float64)
    for step in range(STEPS):
        grad = gradients(step).logit_opacities
        second = second + (step + 1) ** -0.8 * (grad.square() - second)
        update, state = optimizer.update(gradients(step), state, scene, context(step, N))
        torch.testing.assert_close(update.logit_opacities, -RATES.logit_opacities * grad / second.sqrt())


def test_adafactor_is_exact_where_squares_are_a_product() -> None:
    """|G| = row column: the first update is the sign, as Adam's is, even though one number per row is kept."""
    optimizer, scene = Adafactor(RATES), random_scene(N)
    product = random_matrix(N, 1).abs() * torch.tensor([1.0, 1e-3, 30.0], dtype=torch.float64)
    grads = GaussianScene(*(product if name == "log_scales" else t for name, t in random_scene(N, seed=1).items()))
    update, state = optimizer.update(grads, optimizer.init(scene), scene, context(0, N))
    torch.testing.assert_close(update.log_scales, torch.full_like(product, -RATES.log_scales), rtol=1e-12, atol=0)
    assert state.rows["row.log_scales"].shape == (N,)
    assert state.rows["row.sh"].shape == (N, 16)


def test_adafactor_clips_the_size_of_a_whole_update() -> None:
    optimizer, scene = Adafactor(RATES, clip=0.5), random_scene(N)
    state = optimizer.init(scene)
    for step, size in enumerate((1.0, 100.0)):  # a sudden jump
        grads = gradients(step).map(lambda g, s=size: s * g)  # type: ignore[misc]
        update, state = optimizer.update(grads, state, scene, context(step, N))
    assert float(update.quats.square().mean().sqrt()) == pytest.approx(0.5 * RATES.quats)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="momentum is 1"):
        Muon(RATES, momentum=1.0)
    with pytest.raises(ValueError, match="every=0"):
        Soap(Adam(), every=0)
    with pytest.raises(ValueError, match="clip is 0"):
        Adafactor(RATES, clip=0.0)
