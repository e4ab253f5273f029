"""UNSIR (Tarun et al. 2023): impair with images that maximise the error of the forgotten class, then repair.

Noise images are trained, with the model fixed, to maximise CE for the class under an L2 penalty. One epoch on them, labelled
with the class, mixed with some retained images of every other class impairs; one epoch on the retained images repairs.
Defined for forgetting a whole class only.

Source: the authors' repository, CIFAR-10 and ResNet-18. There 20 copies of 256 noise images meet 9 · 1,000 retained ones; where
retain has fewer, there are fewer copies in proportion. Noise and retained images are mixed in the same proportion in every
batch instead of by shuffling.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness import Data, Ensemble, Net, NotApplicable, Rng, losses


@dataclass
class Unsir:
    noise_images: int
    noise_copies: int
    noise_steps: int
    noise_lr: float
    noise_penalty: float
    retain_per_class: int
    impair_lr: float
    repair_lr: float
    batch_size: int

    def unlearn(self, models: Ensemble, data: Data, rng: Rng) -> None:
        forgotten = data.forgotten_class
        if forgotten is None:
            raise NotApplicable("unsir forgets a whole class: forget must be all of one class, and retain free of it")
        noise = self.learn_noise(models, data, forgotten, rng)
        retained = data.retain.random_of_each_class(self.retain_per_class)
        retained_classes = int((data.retain.label_counts(data.classes) > 0).sum())
        ratio = self.noise_images * self.noise_copies / (self.retain_per_class * retained_classes)

        impair = models.adam(lr=self.impair_lr)
        for x, y in retained.batches(max(2, round(self.batch_size / (1 + ratio)))):
            chosen = rng.integers(self.noise_images, round(ratio * y.shape[-1])).to(y.device)
            models.step(impair, impairment, x, y, taken(noise, chosen), torch.full_like(chosen, forgotten))
        repair = models.adam(lr=self.repair_lr)
        for x, y in retained.batches(self.batch_size):
            models.step(repair, losses.cross_entropy, x, y)

    def learn_noise(self, models: Ensemble, data: Data, forgotten: int, rng: Rng) -> Tensor:
        """Images [*lead, noise_images, C, H, W] that each model gets most wrong, its weights fixed."""
        shape = data.forget.tensors()[0].shape[1:]
        learned: list[Tensor] = []

        def learn(net: nn.Module) -> None:
            net.eval()
            noise = torch.randn(self.noise_images, *shape, device=models.device, dtype=models.dtype, requires_grad=True)
            optimizer = torch.optim.Adam([noise], lr=self.noise_lr)
            for _ in range(self.noise_steps):
                (noise.grad,) = torch.autograd.grad(self.noise_loss(net, noise, forgotten), noise)
                optimizer.step()
            learned.append(noise.detach())

        models.map_models(learn, rng)
        return torch.stack(learned) if models.stacked else learned[0]

    def noise_loss(self, net: Net, noise: Tensor, forgotten: int) -> Tensor:
        labels = torch.full((len(noise),), forgotten, device=noise.device)
        return self.noise_penalty * noise.square().sum((1, 2, 3)).mean() - F.cross_entropy(net(noise), labels)


def taken(noise: Tensor, chosen: Tensor) -> Tensor:
    """Each model's images of these numbers: noise [*lead, n, C, H, W], chosen [*lead, b]."""
    if chosen.ndim == 1:
        return noise[chosen]
    return noise[torch.arange(len(noise), device=noise.device)[:, None], chosen]


def impairment(net: Net, x: Tensor, y: Tensor, noise: Tensor, forgotten: Tensor) -> Tensor:
    return F.cross_entropy(net(torch.cat([x, noise])), torch.cat([y, forgotten]))
