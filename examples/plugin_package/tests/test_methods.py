"""What each method does to one small network. That they run on a benchmark: ``unlearn method=NAME``."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from unlearn_shrink.shrink_and_perturb import ShrinkAndPerturb
from unlearn_shrink.smooth_forget import smooth_forget


def test_shrinking_keeps_a_share_of_every_weight():
    net = nn.Linear(3, 2)
    before = [weight.detach().clone() for weight in net.parameters()]
    with torch.no_grad():
        ShrinkAndPerturb(keep=0.25, noise=0.0).erase(net)
    for weight, old in zip(net.parameters(), before, strict=True):
        torch.testing.assert_close(weight, 0.25 * old)


def test_noise_has_the_given_standard_deviation():
    torch.manual_seed(0)
    net = nn.Linear(100, 100)
    with torch.no_grad():
        ShrinkAndPerturb(keep=0.0, noise=0.3).erase(net)
    assert abs(net.weight.std().item() - 0.3) < 0.01


def test_forget_images_end_less_certain_than_retain_images():
    torch.manual_seed(0)
    images, labels = torch.eye(8), torch.arange(8) % 2
    retain, forget = (DataLoader(TensorDataset(images[i], labels[i]), batch_size=4) for i in (slice(4), slice(4, 8)))
    net = nn.Linear(8, 2)
    smooth_forget(net, retain, forget, forget, epochs=200, lr=0.1, weight=1.0)
    certainty = net(images).softmax(dim=1).gather(1, labels[:, None]).flatten()
    assert certainty[:4].min() > 0.8
    assert abs(certainty[4:].mean() - 0.5) < 0.05
