"""Every registered model trains alike in a stack, one at a time, and as a plain module; weights from files."""

from importlib.resources import files

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import nn

from harness import models as architectures
from harness.benchmark import from_config
from harness.command import compose
from harness.draws.stages import Training
from harness.engine.build import Engine, build_ensemble
from harness.engine.dropout import use_streams
from harness.engine.losses import cross_entropy
from harness.engine.training_options import TrainingOptions
from harness.errors import UserError
from harness.models import pretrained
from harness.models.torchvision_import import torchvision
from harness.models.vit import SelfAttention
from harness.registry.catalogue import names
from harness.streams import Rng
from tests.helpers import colour_task

# Smaller than registered where a full one would take long; every kind of layer is still there.
SMALLER = {
    "resnet9": {"widths": [4, 6, 8, 10]},
    "vit_tiny": {"layers": 2, "image_size": 16, "dropout": 0.1, "attention_dropout": 0.2, "prompts": 3, "deep": True},
    "vit_b_16": {"layers": 1, "image_size": 32, "prompts": 2},
}
SEEDS = [11, 12]
# Other than image_size, so that interpolation is tested too; and large enough that batch norm has more than four numbers
# to normalise, or rounding is blown up.
SIDES = {"vit_tiny": 12, "vit_b_16": 16, "resnet18": 33, "mobilenet_v2": 17, "shufflenet_v2": 9}


def registered(name, **changes):
    node = OmegaConf.to_container(OmegaConf.create(files("harness.conf").joinpath("model", f"{name}.yaml").read_text()))
    return node | SMALLER.get(name, {}) | changes


def build(spec, seed=0, channels=3):
    return architectures.build(spec, classes=3, channels=channels, seed=seed)


def batches(name):
    generator = torch.Generator().manual_seed(0)
    side = SIDES.get(name, 8)
    steps = 2  # a transformer's head is zero at first, and blocks the gradient
    shape = (steps, len(SEEDS), 3, 3, side, side)
    x = torch.randn(shape, dtype=torch.float64, generator=generator)
    return list(zip(x, torch.randint(3, shape[:3], generator=generator), strict=True))


def trained_by_engine(name, stacked):
    """state of each model, dropout streams from seeds of their own"""
    task = colour_task(side=SIDES.get(name, 8))
    options = TrainingOptions(precision="float64")
    states = []
    for members in [[0, 1]] if stacked else [[0], [1]]:
        models = build_ensemble(
            registered(name), task, [SEEDS[m] for m in members], engine=Engine("cpu", stacked), options=options
        )
        use_streams(models, Rng([100 + m for m in members], stacked=stacked))
        models.train()
        optimizer = models.sgd(lr=1e-3, momentum=0.9, weight_decay=1e-3)
        for x, y in batches(name):
            own = (lambda t, members=members: t[members]) if stacked else (lambda t, members=members: t[members[0]])
            models.step(optimizer, cross_entropy, own(x), own(y))
        state = models.state()
        states += [{n: t[m] if stacked else t for n, t in state.items()} for m in range(len(members))]
    return states


def trained_plainly(name):
    """A loop as in a notebook, on separate modules."""
    states = []
    for m, seed in enumerate(SEEDS):
        net = build(registered(name), seed).double().train()
        streams = Rng([100 + m], stacked=False)
        for module in net.modules():
            if isinstance(module, architectures.Dropout):
                module.stream.fill_(streams.seeds()[0] & 0xFFFFFFFF)
        optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-3)
        for x, y in batches(name):
            optimizer.zero_grad()
            F.cross_entropy(net(x[m]), y[m]).backward()
            optimizer.step()
        states.append({n: t.detach() for n, t in [*net.named_parameters(), *net.named_buffers()]})
    return states


@pytest.mark.parametrize("name", names("model"))
def test_steps_give_the_weights_of_separate_modules(name):
    plain = trained_plainly(name)
    start = [dict(build(registered(name), seed).double().named_parameters()) for seed in SEEDS]
    for stacked in (True, False):
        for state, wanted, before in zip(trained_by_engine(name, stacked), plain, start, strict=True):
            assert state.keys() == wanted.keys()
            for key, tensor in state.items():
                assert torch.allclose(tensor.double(), wanted[key].double(), rtol=1e-7, atol=1e-9), (stacked, key)
            moved = sum(not torch.equal(state[key], tensor) for key, tensor in before.items())
            assert moved > 0.9 * len(before)  # the step reached the weights


@pytest.mark.parametrize("name", names("model"))
@pytest.mark.parametrize(("channels", "side"), [(1, 8), (3, 32)])
def test_any_number_of_channels_and_sizes_of_image(name, channels, side):
    if name == "vit_b_16":
        side = 16
    net = build(registered(name), channels=channels).eval()
    with torch.no_grad():
        assert net(torch.zeros(2, channels, side, side)).shape == (2, 3)


@pytest.mark.parametrize("name", names("model"))
def test_every_model_says_what_it_is(name):
    text = files("harness.conf").joinpath("model", f"{name}.yaml").read_text()
    assert text.startswith("# ")
    assert "pretrained: null" in text


# --- transformers ---------------------------------------------------------------------------------------------------


def test_attention_is_multihead_attention():
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(12, 3, batch_first=True).eval()
    x = torch.randn(2, 5, 12)
    assert torch.allclose(SelfAttention(theirs)(x, x, x)[0], theirs(x, x, x, need_weights=False)[0], atol=1e-6)


def test_without_prompts_it_is_torchvisions_transformer():
    shape = {"image_size": 16, "patch_size": 4, "num_layers": 2, "num_heads": 3, "hidden_dim": 192, "mlp_dim": 768}
    theirs = torchvision("models").VisionTransformer(**shape, num_classes=3).eval()
    nn.init.normal_(theirs.heads.head.weight)
    ours = build(registered("vit_tiny", prompts=0)).eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 16, 16)
    assert torch.allclose(ours(x), theirs(x), atol=1e-5)


@pytest.mark.parametrize(("deep", "depth"), [(False, 1), (True, 2)])
def test_prompts_are_parameters_that_matter(deep, depth):
    net = build(registered("vit_tiny", deep=deep)).eval()
    assert net.prompts.shape == (depth, 3, 192)
    nn.init.normal_(net.heads.head.weight)
    net(torch.randn(1, 3, 16, 16)).sum().backward()
    assert all((gradient != 0).any() for gradient in net.prompts.grad)


def test_attention_dropout_has_a_stream_of_each_models_own():
    net = build(registered("vit_tiny", dropout=0.0, attention_dropout=0.5))
    layers = [module for module in net.modules() if isinstance(module, architectures.Dropout) and module.p == 0.5]
    assert len(layers) == 2  # one a layer
    assert not any(type(module) in (nn.Dropout, nn.MultiheadAttention) for module in net.modules())


# --- weights from a file --------------------------------------------------------------------------------------------


def test_pretrained_weights_with_another_head(tmp_path):
    other = architectures.build(registered("resnet9"), classes=7, channels=3, seed=5)
    for file, write in ((tmp_path / "w.safetensors", save_file), (tmp_path / "w.pt", torch.save)):
        write(other.state_dict(), file)
        a, b = (build(registered("resnet9", pretrained=str(file)), seed) for seed in (1, 2))
        body = [name for name in a.state_dict() if not name.startswith("8.")]
        assert all(torch.equal(a.state_dict()[n], other.state_dict()[n]) for n in body)
        assert not torch.equal(a[8].weight, b[8].weight)  # the head is fresh, a function of the seed
        assert pretrained.load(build(registered("resnet9")), str(file)) == ["8.bias", "8.weight"]


def test_pretrained_weights_that_fit_whole_and_wrapped_ones(tmp_path):
    other = build(registered("resnet9"), 5)
    torch.save(
        {"state_dict": {f"module.{n}": t for n, t in other.state_dict().items()}, "epoch": 3}, tmp_path / "w.pth"
    )
    net = build(registered("resnet9"))
    assert pretrained.load(net, str(tmp_path / "w.pth")) == []
    assert all(torch.equal(net.state_dict()[n], t) for n, t in other.state_dict().items())


def test_pretrained_transformers_get_fresh_prompts(tmp_path):
    save_file(build(registered("vit_tiny", prompts=0), 5).state_dict(), tmp_path / "w.safetensors")
    assert pretrained.load(build(registered("vit_tiny")), str(tmp_path / "w.safetensors")) == ["prompts"]


def test_torchvisions_published_transformers_have_older_names(tmp_path):
    own = build(registered("vit_tiny", prompts=0), 5).state_dict()
    older = {n.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2."): t for n, t in own.items()}
    torch.save(older, tmp_path / "w.pth")
    assert older.keys() != own.keys()
    net = build(registered("vit_tiny", prompts=0))
    assert pretrained.load(net, str(tmp_path / "w.pth")) == []
    assert all(torch.equal(net.state_dict()[n], t) for n, t in own.items())


def test_weights_that_do_not_fit_are_explained(tmp_path):
    file = str(tmp_path / "w.safetensors")
    save_file(build(registered("small_cnn")).state_dict(), file)
    with pytest.raises(UserError, match=r"does not fit this model: lacks 0\.0\.weight.* has unknown "):
        build(registered("resnet9", pretrained=file))
    with pytest.raises(UserError, match=r"0\.weight is \[16, 3, 3, 3\], not \[16, 1, 3, 3\]"):
        build(registered("small_cnn", pretrained=file), channels=1)
    with pytest.raises(UserError, match="the file has changed"):
        build(registered("small_cnn", pretrained=file, pretrained_sha256="0"))
    (tmp_path / "bad.pt").write_bytes(b"not weights")
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")  # a pickled object: code would run
    torch.save([1, 2], tmp_path / "list.pt")
    for name, message in (
        ("bad.pt", "cannot be read"),
        ("module.pt", "cannot be read"),
        ("list.pt", "expected a state dict"),
        ("none.pt", "no such file"),
    ):
        with pytest.raises(UserError, match=message):
            build(registered("small_cnn", pretrained=str(tmp_path / name)))
    with pytest.raises(UserError, match=r"expected a file \.safetensors"):
        pretrained.sha256_of(__file__)


def test_where_the_weights_lie_is_no_part_of_a_draws_address():
    def key(**model):
        return Training("t", {"_target_": "x", **model}, TrainingOptions(), "original", 0, Engine("cpu", False)).key

    assert key(pretrained="/a", pretrained_sha256="1") == key(pretrained="/b", pretrained_sha256="1")
    assert key(pretrained="/a", pretrained_sha256="1") != key(pretrained="/a", pretrained_sha256="2")
    assert key() != key(pretrained="/a", pretrained_sha256="1")


def test_a_run_says_what_it_initialised_freshly(tmp_path, capsys, store):
    file = str(tmp_path / "w.safetensors")
    save_file(architectures.build(registered("resnet9"), classes=7, channels=1, seed=0).state_dict(), file)
    small = ["model=resnet9", "model.widths=[4,6,8,10]", "data.train_limit=60", "forget.n=5", "methods=[identity]"]
    ((cfg, method),) = compose.configurations([*small, f"model.pretrained={file}"])
    benchmark = from_config(cfg, store, method_name=method)
    assert "fits but for 8.bias, 8.weight: freshly initialised" in capsys.readouterr().err
    (draw,) = benchmark.originals.make([0], store)
    assert draw.tensors["weights/8.weight"].shape == (10, 10)
    ((cfg, method),) = compose.configurations([*small, "model.pretrained=/nowhere.pt"])
    with pytest.raises(UserError, match=r"model\.pretrained=/nowhere\.pt: no such file"):
        from_config(cfg, store, method_name=method)
