"""The loss of a Gaussian scene on views of a capture, with its gradient by the raw parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from learn2splat.cameras import Cameras
from learn2splat.data.base import SceneData
from learn2splat.densify.base import ScreenEvidence
from learn2splat.errors import UserError
from learn2splat.losses import ImageLoss, LossTerms
from learn2splat.optim.base import Renderings, zeros_like
from learn2splat.render.base import GradientRequest, Renderer, RenderOutput
from learn2splat.scene.gaussians import GaussianScene


@dataclass(frozen=True)
class LossGradient:
    """Loss and gradient of a batch of views.

    Args:
        loss: mean over the views of the batch.
        l1, ssim: likewise.
        grads: derivative of ``loss`` by the raw parameters.
        visible: [N] bool, drawn in at least one of the views.
        view_squares: sum over views of the squared gradient of (loss of that view / views in the batch), or None.
        screen: what a densifier looks at, or None.
        renderings: of the views, when they were asked for.
    """

    loss: float
    l1: float
    ssim: float
    grads: GaussianScene
    visible: Tensor
    view_squares: GaussianScene | None
    screen: ScreenEvidence | None
    renderings: Renderings | None = None


class SceneLoss:
    """Compares renderings of a scene with the photos of ``data``.

    What masks hide is black in photos and renderings alike: it has no part in any difference, and no gradient. Means
    are over all pixels, so that each one that is used weighs the same, however much of its photo is hidden; only PSNR
    is over those that are used.

    Args:
        data: photos and cameras.
        renderer: the rasteriser.
        loss: the image loss.
        background: [3] colour behind the scene, and behind transparent photos; default black.
        device: where to render.
    """

    def __init__(
        self,
        data: SceneData,
        renderer: Renderer,
        loss: ImageLoss,
        background: Tensor | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.renderer, self.loss = renderer, loss
        self.device = torch.device(device)
        self.background = (torch.zeros(3) if background is None else background).to(self.device)
        red, green, blue = self.background.tolist()
        self.data = data.over((red, green, blue))
        self.cameras = data.cameras.to(self.device)

    def photos(self, views: Sequence[int]) -> Tensor:
        """[V, H, W, 3] float32 in 0..1 of views that share one size, black where masked."""
        photos = torch.stack([self.data.photos[view] for view in views]).to(self.device).float().div_(255.0)
        return self.masked(photos, views)

    def used(self, views: Sequence[int]) -> Tensor | None:
        """[V, H, W] bool, what masks do not hide of views that share one size; None without masks."""
        masks = self.data.masks
        return None if masks is None else torch.stack([masks[view] for view in views]).to(self.device)

    def masked(self, images: Tensor, views: Sequence[int]) -> Tensor:
        """Renderings [V, H, W, 3] of ``views``, or their derivative: zero where masks hide the photos."""
        used = self.used(views)
        return images if used is None else images.masked_fill(~used[..., None], 0.0)

    def compare(self, images: Tensor, views: Sequence[int]) -> LossTerms:
        """The loss of renderings [V, H, W, 3] of ``views``, without what masks hide."""
        terms = self.loss(self.masked(images, views), self.photos(views))
        return replace(terms, image_gradient=self.masked(terms.image_gradient, views))

    def gradient(
        self,
        scene: GaussianScene,
        views: Sequence[int],
        request: GradientRequest = GradientRequest(),
        sh_degree: int | None = None,
    ) -> LossGradient:
        """Loss and gradient on ``views``; views of different sizes are rendered in groups.

        Args:
            scene: N Gaussians.
            views: which photos to compare with.
            request: what beside the summed gradient is wanted.
            sh_degree: harmonics up to this degree are used; default all.
        """
        parts = [
            self._group([views[i] for i in index.tolist()], scene, len(views), request, sh_degree)
            for index, _ in self.cameras.take(list(views)).groups_by_size()
        ]
        first, *others = parts
        for other in others:
            squares = None
            if first.view_squares is not None and other.view_squares is not None:
                squares = first.view_squares.map(torch.add, other.view_squares)
            first = LossGradient(
                first.loss + other.loss,
                first.l1 + other.l1,
                first.ssim + other.ssim,
                first.grads.map(torch.add, other.grads),
                first.visible | other.visible,
                squares,
                None if first.screen is None or other.screen is None else first.screen.plus(other.screen),
            )
        return first

    def rendered(
        self,
        scene: GaussianScene,
        views: Sequence[int],
        sh_degree: int | None = None,
        request: GradientRequest | None = None,
    ) -> LossGradient:
        """What `gradient` gives, with renderings; without a ``request`` nothing is differentiated: gradients are zeros.

        Raises:
            UserError: the views differ in size.
        """
        cameras = self.cameras.take(list(views))
        sizes = set(zip(cameras.widths.tolist(), cameras.heights.tolist(), strict=True))
        if len(sizes) > 1:
            raise UserError(f"photos of {len(sizes)} sizes: an optimizer that compares renderings takes photos of one")
        if request is not None:
            return self._group(list(views), scene, len(views), request, sh_degree, depth=True)
        with torch.no_grad():
            output = self.renderer.render(
                scene.detach(), cameras, background=self.background, sh_degree=sh_degree, depth=True
            )
        terms = self.compare(output.image, views)
        return LossGradient(
            loss=terms.loss,
            l1=float(terms.l1.mean()),
            ssim=float(terms.ssim.mean()),
            grads=zeros_like(scene.detach()),
            visible=output.visible.any(dim=0),
            view_squares=None,
            screen=None,
            renderings=self._renderings(output, cameras, views),
        )

    def value(self, scene: GaussianScene, views: Sequence[int], sh_degree: int | None = None) -> float:
        """Mean loss on ``views``; harmonics up to ``sh_degree`` are used, by default all."""
        total = 0.0
        for index, cameras in self.cameras.take(list(views)).groups_by_size():
            chosen = [views[i] for i in index.tolist()]
            with torch.no_grad():
                output = self.renderer.render(scene, cameras, background=self.background, sh_degree=sh_degree)
            total += self.compare(output.image, chosen).loss * len(chosen) / len(views)
        return total

    def psnr(self, scene: GaussianScene, views: Sequence[int]) -> float:
        """Mean over ``views`` of the peak signal-to-noise ratio in dB, of renderings clamped to 0..1 where used."""
        total = 0.0
        for index, cameras in self.cameras.take(list(views)).groups_by_size():
            with torch.no_grad():
                image = self.renderer.render(scene, cameras, background=self.background).image.clamp(0, 1)
            chosen = [views[i] for i in index.tolist()]
            errors = (self.masked(image, chosen) - self.photos(chosen)).square().flatten(1).double().mean(dim=1)
            used = self.used(chosen)
            if used is not None:
                errors /= used.flatten(1).double().mean(dim=1)
            total += float((-10 * errors.clamp_min(1e-12).log10()).sum())
        return total / len(views)

    def _group(
        self,
        views: list[int],
        scene: GaussianScene,
        batch_views: int,
        request: GradientRequest,
        sh_degree: int | None,
        depth: bool = False,
    ) -> LossGradient:
        share = len(views) / batch_views
        cameras = self.cameras.take(views)
        output, pullback = self.renderer.linearise(
            scene, cameras, background=self.background, sh_degree=sh_degree, depth=depth
        )
        terms = self.compare(output.image, views)
        cotangent = terms.image_gradient if share == 1.0 else terms.image_gradient * share
        gradients = pullback(cotangent, request=request)
        screen = None
        if gradients.means2d_px is not None:
            size = (cameras.width, cameras.height)
            screen = ScreenEvidence.of(gradients.means2d_px, output.visible, size, batch_views)
        return LossGradient(
            loss=terms.loss * share,
            l1=float(terms.l1.mean()) * share,
            ssim=float(terms.ssim.mean()) * share,
            grads=gradients.scene,
            visible=output.visible.any(dim=0),
            view_squares=gradients.view_squares,
            screen=screen,
            renderings=self._renderings(output, cameras, views) if depth else None,
        )

    def _renderings(self, output: RenderOutput, cameras: Cameras, views: Sequence[int]) -> Renderings:
        assert output.depth is not None
        images = self.masked(output.image, views)
        return Renderings(cameras, self.photos(views), images, output.alpha, output.depth)
