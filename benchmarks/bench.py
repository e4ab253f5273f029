"""Time the engine and the metrics against simple loops, side by side in one run. Prints ratios; asserts nothing.

    python benchmarks/bench.py [--models 64] [--examples 100]

1. *pool*: draw N models of the default task by this engine, and by the loop of a typical notebook (a DataLoader, one model
   after another, all cores), at equal hyper-parameters.
2. *epsilon*: the official ε for 512 draws × 100 examples, and a literal evaluation of its grids on a few examples.
3. *metrics*: every metric at 512 draws × 500 examples, on one thread.
4. *intervals*: 95 % intervals of the default metrics, of one row at 128 × 100 and at 512 × 500.
5. *stack* (only with a CUDA device): ResNet-18, 32×32, batch 64: stacks of 1, 4, 16, 64 against the plain loop.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from harness import models as architectures
from harness.command.compose import configurations
from harness.draws.store import Store
from harness.engine.losses import cross_entropy
from harness.engine.sequential import Sequential
from harness.engine.stacked import Stacked
from harness.engine.training_options import TrainingOptions
from harness.metrics import Outputs, confidences


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=64)
    parser.add_argument("--examples", type=int, default=100)
    options = parser.parse_args()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    print(f"{os.cpu_count()} cores, {device}, torch {torch.__version__}\n")
    pool(options.models)
    epsilon(options.examples)
    metrics()
    row_intervals()
    if torch.cuda.is_available():
        stack()


def pool(n: int) -> None:
    """N retrained models of the default task."""
    from harness.benchmark import from_config
    from harness.draws.executor import Executor, Pool

    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        ((cfg, method),) = configurations(["device=cpu", f"protocol.n={n}", "methods=[identity]"])
        benchmark = from_config(cfg, store, method_name=method)
        stage = benchmark.retrained
        start = time.perf_counter()
        with Executor(store, in_process=False, workers=benchmark.workers) as executor:
            executor.fill([Pool(stage, tuple(range(n)))])
        engine = time.perf_counter() - start

        task = benchmark.task
        images = (torch.from_numpy(task.images).float() - torch.from_numpy(task.mean)) / torch.from_numpy(task.std)
        images, labels = images.permute(0, 3, 1, 2).contiguous(), torch.from_numpy(task.labels)
        retain = torch.from_numpy(task.splits["retain"])
        evaluated = torch.cat([torch.from_numpy(index) for index in task.splits.values()])
        start = time.perf_counter()
        for i in range(n):
            torch.manual_seed(i)
            net = architectures.build(benchmark.prepared.model, classes=task.classes, channels=images.shape[1], seed=i)
            _notebook_training(net, TensorDataset(images[retain], labels[retain]), benchmark.options.train)
            net.eval()
            with torch.no_grad():
                net(images[evaluated])
        notebook = time.perf_counter() - start
    print(f"pool: {n} models of {task.name}, {len(retain)} images, {benchmark.options.train.epochs} epochs")
    print(f"  this engine    {engine:8.2f} s  {engine / n:7.3f} s a model  ({benchmark.workers} workers, all included)")
    print(f"  notebook loop  {notebook:8.2f} s  {notebook / n:7.3f} s a model  ({torch.get_num_threads()} threads)")
    print(f"  ratio          {notebook / engine:8.2f}\n")


def _notebook_training(net: nn.Module, data: TensorDataset, options: TrainingOptions) -> None:
    loader = DataLoader(data, batch_size=options.batch_size, shuffle=True)
    optimizer = torch.optim.SGD(net.parameters(), options.lr, options.momentum, weight_decay=options.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.epochs)
    net.train()
    for _ in range(options.epochs):
        for x, y in loader:
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        schedule.step()


def epsilon(examples: int, n: int = 512) -> None:
    """The official ε per example, on one thread."""
    from harness.metrics import official_epsilons

    rng = np.random.default_rng(0)
    unlearned, retrained = rng.normal(5, 2, (n, examples)), rng.normal(4.5, 1.5, (n, examples))
    official_epsilons(unlearned=unlearned[:, :2], retrained=retrained[:, :2])
    start = time.perf_counter()
    fast = official_epsilons(unlearned=unlearned, retrained=retrained)
    per_example = (time.perf_counter() - start) / examples
    few = 2
    start = time.perf_counter()
    literal = [_literal_intervals(unlearned[:, s], retrained[:, s]) for s in range(few)]
    slow = (time.perf_counter() - start) / few
    print(f"epsilon: {n} draws × {examples} examples")
    print(f"  this package        {1e3 * per_example:10.2f} ms an example")
    print(f"  literal grid loops  {1e3 * slow:10.2f} ms an example (interval attacks alone, {few} examples)")
    print(f"  ratio               {slow / per_example:10.0f}")
    print(f"  ε of the first examples {np.round(fast[:few], 4)}, interval attacks alone {np.round(literal, 4)}\n")


def metrics(examples: int = 500, n: int = 512, classes: int = 10) -> None:
    """Seconds of processor time for one evaluation of every metric."""
    from harness.metrics import available, get_metrics

    unlearned, retrained = _two_pools(n, examples, classes)
    few = np.arange(16)
    print(f"metrics: {n} draws × {examples} examples, {classes} classes, 64 features, seconds of processor time")
    for found in get_metrics(available()):
        found.compute(unlearned=unlearned.take(few), retrained=retrained.take(few))
        start = time.process_time()
        found.compute(unlearned=unlearned, retrained=retrained)
        print(f"  {found.name:16s}{time.process_time() - start:8.2f}")
    print()


def row_intervals() -> None:
    """Seconds for the intervals of one method, all metrics of the default board."""
    from harness.metrics import get_metrics
    from harness.scores.intervals import intervals

    chosen = get_metrics(["official", "ks", "kl", "accuracy"])
    print("intervals of one row, default metrics, seconds")
    for n, examples in ((128, 100), (512, 500)):
        unlearned, retrained = _two_pools(n, examples, classes=10)
        start = time.perf_counter()
        intervals(chosen, unlearned=unlearned, retrained=retrained, seed=0)
        print(f"  {n} draws × {examples} examples {time.perf_counter() - start:8.1f}")
    print()


def _two_pools(n: int, examples: int, classes: int) -> tuple[Outputs, Outputs]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, examples)

    def pool(shift: float) -> Outputs:
        logits = rng.normal(size=(n, examples, classes)).astype(np.float32)
        logits[:, np.arange(examples), labels] += 4 + shift
        accuracy = {part: rng.uniform(size=n) for part in ("retain", "forget", "test")}
        features = (logits[..., :8] + rng.normal(size=(n, examples, 8))).repeat(8, axis=2).astype(np.float32)
        return Outputs(confidences(logits, labels), logits, accuracy, rng.normal(4, 1, (n, 1000)), features)

    return pool(0.3), pool(0.0)


def _literal_intervals(unlearned: np.ndarray, retrained: np.ndarray, delta: float = 1e-5) -> float:
    """Every interval of the official grid, one comparison with both samples each."""
    narrow, wide = sorted((unlearned, retrained), key=np.ptp)
    width = np.ptp(narrow)
    low, high = narrow.min() + width - 2, narrow.max() + 2
    best = 0.0
    for right in np.linspace(low, high, int(np.ceil((high - low) * 100))):
        for left in np.linspace(right - width - 2, right - width + 2, 400):
            fnr = 1 - np.mean((narrow >= left) & (narrow <= right))
            fpr = np.mean((wide >= left) & (wide <= right))
            if fpr > 0 and fnr > 0:
                with np.errstate(invalid="ignore"):
                    attack = np.log([1 - delta - fpr, 1 - delta - fnr]) - np.log([fnr, fpr])
                best = max(best, np.nanmax(attack))
    return best


def stack(steps: int = 20, batch: int = 64) -> None:
    """ResNet-18 training steps: models per second, by size of the stack."""
    device = torch.device("cuda")
    spec = {"_target_": "harness.models.resnet18"}

    def build(seed: int) -> nn.Module:
        net = architectures.build(spec, classes=10, channels=3, seed=seed)
        placed: nn.Module = net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return placed

    print(f"stack: ResNet-18, 32×32, batch {batch}, {steps} steps")
    plain = Sequential(build(0))
    rate = _steps_per_second(plain, steps, batch, device)
    print(f"  plain loop  {rate:8.1f} model-steps a second")
    for size in (1, 4, 16, 64):
        stacked = _steps_per_second(Stacked([build(i) for i in range(size)]), steps, batch, device)
        print(f"  stack {size:4d}  {stacked:8.1f} model-steps a second, ratio {stacked / rate:6.2f}")


def _steps_per_second(models: Sequential | Stacked, steps: int, batch: int, device: torch.device) -> float:
    x = torch.randn(*models.lead, batch, 3, 32, 32, device=device)
    y = torch.randint(10, (*models.lead, batch), device=device)
    optimizer = models.sgd(lr=0.01, momentum=0.9)
    for _ in range(5):
        models.step(optimizer, cross_entropy, x, y)
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(steps):
        models.step(optimizer, cross_entropy, x, y)
    torch.cuda.synchronize()
    return steps * models.size / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
