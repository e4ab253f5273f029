"""Train on retain as usual, and on forget towards every class alike: a plain function."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import cycle

from torch import Tensor, nn, optim
from torch.nn.functional import cross_entropy

Loader = Iterable[tuple[Tensor, Tensor]]


def smooth_forget(
    net: nn.Module,
    retain: Loader,
    forget: Loader,
    valid: Loader,
    epochs: int = 1,
    lr: float = 0.01,
    weight: float = 0.5,
) -> None:
    """Changes ``net`` in place. weight: of the forget loss, whose labels are smoothed to the uniform distribution."""
    optimizer = optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    net.train()
    for _ in range(epochs):
        for (x, y), (x_forget, y_forget) in zip(retain, cycle(forget), strict=False):
            optimizer.zero_grad()
            loss = cross_entropy(net(x), y) + weight * cross_entropy(net(x_forget), y_forget, label_smoothing=1.0)
            loss.backward()
            optimizer.step()
