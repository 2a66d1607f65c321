"""UNets with cross-attention: what they take, that prompts are heard, and how they are taken apart."""

from __future__ import annotations

import copy
import importlib.util
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lifelong.config.run import RunConfig
from lifelong.models import unet_small
from lifelong.setup.build import make_strategy
from lifelong.setup.preparation import prepare
from strategies.composed import Composed
from strategies.objectives._base import EVALUATION
from strategies.objectives.denoising import Config as DenoisingConfig
from strategies.objectives.denoising import Denoising
from strategies.parts.diffusion.checkpoint import part_of
from strategies.parts.diffusion.parts import part_mask, word_embedding
from strategies.parts.model import FlatModel
from strategies.step import step
from streams.config import parse
from streams.errors import ConfigError
from streams.ledger import Ledger
from streams.randomness import Key, seeded_globals
from streams.source import Source
from streams.sources import digits

SMALL = {"channels": (8,), "groups": 4, "heads": 2, "words": 8}
needs_diffusers = pytest.mark.skipif(
    importlib.util.find_spec("diffusers") is None, reason="pip install 'lifelong-simulator[images]'"
)
pytestmark = pytest.mark.filterwarnings("ignore")  # of diffusers, at import time


@pytest.fixture(scope="module")
def source() -> Source:
    return digits.load(digits.Config())


def model_of(objective: Denoising, **options: Any) -> FlatModel:
    with seeded_globals(Key(0)):
        config = parse(unet_small.Config, {**SMALL, **options})
        return FlatModel(unet_small.build(config, *objective.sizes((64,))))


@needs_diffusers
def test_a_unet_hears_its_prompt_and_is_taken_apart(source: Source) -> None:
    objective = Denoising.for_data(DenoisingConfig(steps=2), source, None, "cpu")
    model = model_of(objective)
    model.train(False)
    data = Ledger(source).lend(source.train_ids[:5])
    (batch,) = objective.batches(data, 5)
    with torch.no_grad():
        outputs = objective.outputs(model, batch)
        assert outputs.shape == (5, 64)
        assert objective.features(model, batch).shape == (5, 8 * 4 * 4)
        torch.testing.assert_close(model.network.head(objective.features(model, batch)), outputs)
        other = objective.outputs(model, replace(batch, y=(batch.y + 1) % 10))
        later = objective.outputs(model, replace(batch, extra={**batch.extra, "time": batch.extra["time"] // 2}))
    assert not torch.isclose(outputs, other).all(1).any()
    assert not torch.isclose(outputs, later).all(1).any()
    copied = copy.deepcopy(model.network)
    assert not {p.data_ptr() for p in copied.parameters()} & {p.data_ptr() for p in model.network.parameters()}
    masks = {part: part_mask(model, part) for part in ("conditioning", "key-value", "rest", "text-encoder")}  # type: ignore[arg-type]
    assert not (masks["key-value"] & ~masks["conditioning"]).any()
    disjoint = masks["conditioning"].int() + masks["rest"].int() + masks["text-encoder"].int()
    assert (disjoint == 1).all()
    named = {n for n, where in model.slices.items() if masks["key-value"][where].all()}
    assert named
    assert all(n.split(".")[-2] in ("to_k", "to_v") and "attn2" in n for n in named)
    heard: list[torch.Size] = []
    handle = word_embedding(model.network).register_forward_hook(lambda *call: heard.append(call[2].shape))
    prompts = np.array([[3, -1]])
    noise = objective.noise(prompts, np.array([0]))
    image = objective.sample(lambda b: objective.outputs(model, b), prompts, noise)
    assert image.shape == (1, 1, 8, 8)
    handle.remove()
    assert heard == [torch.Size([2, 1, 8])] * 2
    loss = objective.losses(objective.outputs(model, objective.drawn(data.all(), EVALUATION)), batch).mean()
    loss.backward()
    assert bool((model.gradient != 0).float().mean() > 0.9), "every part of it learns"


@needs_diffusers
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch": 3}, r"patches of 3 and halves them 0 times, which takes sides that 3 divides.*\[1, 8, 8\]"),
        ({"channels": (8, 8, 8), "patch": 4}, "sides that 16 divides"),
    ],
)
def test_an_image_that_cannot_be_halved_is_refused(options: dict[str, Any], message: str, source: Source) -> None:
    objective = Denoising.for_data(DenoisingConfig(), source, None, "cpu")
    with pytest.raises(ConfigError, match=message):
        model_of(objective, **options)


def test_sizes_that_do_not_divide_are_refused() -> None:
    for options, message in (({"channels": (10,)}, "10 cannot be divided by groups"), ({"words": 9}, "heads: 2")):
        with pytest.raises(ConfigError, match=message):
            parse(unet_small.Config, {**SMALL, **options})


def test_without_diffusers_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ConfigError, match=r"pip install 'lifelong-simulator\[images\]'"):
        unet_small.unet_of()


# -- Stable Diffusion: the real classes with random weights at a small size


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in diffusers' layout: autoencoder that halves once, UNet of two resolutions, CLIP with a few words."""
    pytest.importorskip("diffusers", reason="pip install 'lifelong-simulator[images]'")
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("checkpoint")
    letters = [*"abcdefghijklmnopqrstuvwxyz0123456789-", *(f"{c}</w>" for c in "abcdefghijklmnopqrstuvwxyz0123456789-")]
    vocabulary = {token: i for i, token in enumerate([*letters, "<|startoftext|>", "<|endoftext|>"])}
    (folder / "words").mkdir()
    (folder / "words" / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "words" / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(
        str(folder / "words" / "vocab.json"), str(folder / "words" / "merges.txt"), model_max_length=24
    )
    with seeded_globals(Key(0)):
        unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            layers_per_block=1,
            block_out_channels=(8, 16),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=16,
            norm_num_groups=4,
            attention_head_dim=2,
        )
        vae = AutoencoderKL(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=4,
            latent_channels=4,
        )
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(vocabulary),
                hidden_size=16,
                intermediate_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=24,
                bos_token_id=len(vocabulary) - 2,
                eos_token_id=len(vocabulary) - 1,
            )
        )
    for part, name in ((unet, "unet"), (vae, "vae"), (text, "text_encoder"), (tokenizer, "tokenizer")):
        part.save_pretrained(folder / name)
    return folder


def latent_run(checkpoint: Path, **more: Any) -> RunConfig:
    """Digits as pictures of 16 x 16 in the latents of the checkpoint, 8 x 8."""
    place = str(checkpoint)
    options: dict[str, Any] = {
        "features": {"name": "stable-diffusion-latents", "checkpoint": place, "size": 16},
        "source": {"name": "glyphs", "classes": 3},
        "scenario": "joint",
        "schedule": {"name": "explicit", "requests": [{"after": 1, "scope": "class", "count": 1}]},
        "objective": {
            "name": "denoising",
            "checkpoint": place,
            "prediction": "epsilon",
            "schedule": "scaled-linear",
            "steps": 3,
            "styles": "none",
            "template": "a picture of {object}",
        },
        "model": {"name": "stable-diffusion", "checkpoint": place},
        "training": {"epochs": 1, "optimizer": "adam", "lr": 1e-3, "batch_size": 16},
        "strategies": {"esd": {"unlearner": {"name": "esd", "steps": 2, "images": 2, "batch_size": 2}}},
    }
    return parse(RunConfig, {**options, **more})


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


@pytest.mark.nightly
def test_a_checkpoint_learns_and_is_erased_in_its_latents(checkpoint: Path, cache: Path) -> None:
    """Offline, through the code that reads real checkpoints; erasing moves cross-attention and nothing else."""
    prepared = prepare(latent_run(checkpoint))
    objective = Denoising.of(prepared.setting.objective)
    assert objective.image_shape == (4, 8, 8)
    assert objective.prompts.tokens.shape == (4, 1, 24)
    strategy = make_strategy(prepared.config.strategies["esd"], prepared.setting, "esd")
    ledger = Ledger(prepared.stream.source)
    outcomes = [step(strategy, event, ledger).outcome for event in prepared.stream.events[:1]]
    assert outcomes[0].losses["loss"] > 0
    assert isinstance(strategy, Composed)
    assert prepared.setting.outline().slices == strategy.learner.model.slices
    before = strategy.learner.model.parameters.clone()
    step(strategy, prepared.stream.events[1], ledger)
    moved = strategy.learner.model.parameters != before
    assert bool(moved.any())
    assert not bool((moved & ~part_mask(strategy.learner.model, "conditioning")).any())
    assert not [n for n in strategy.learner.model.slices if "text" in n], "the text encoder is frozen"
    prompts = np.array([[0, -1]])
    images = objective.sample(strategy.predict, prompts, objective.noise(prompts, np.array([0])))
    assert images.shape == (1, 3, 16, 16)
    assert 0 <= float(images.min()) <= float(images.max()) <= 1


@pytest.mark.nightly
def test_our_sampler_draws_what_the_pipeline_of_diffusers_draws(checkpoint: Path, cache: Path) -> None:
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

    prepared = prepare(latent_run(checkpoint))
    objective, model = Denoising.of(prepared.setting.objective), prepared.setting.make_model()
    model.train(False)
    parts = {name: part_of(str(checkpoint), name) for name in ("unet", "vae", "text_encoder", "tokenizer")}  # type: ignore[arg-type]
    scheduler = DPMSolverMultistepScheduler(
        num_train_timesteps=1000, beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012
    )
    pipeline = StableDiffusionPipeline(
        **parts, scheduler=scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    prompts = np.array([[1, -1], [2, -1]])
    noise = objective.noise(prompts, np.array([0, 5]))
    texts = [objective.prompts.text(prompt) for prompt in prompts]
    theirs = pipeline(
        texts,
        latents=noise.view(-1, 4, 8, 8).clone(),
        num_inference_steps=3,
        guidance_scale=2.0,
        height=16,
        width=16,
        output_type="latent",
    ).images
    ours = objective.generated(lambda batch: objective.outputs(model, batch), prompts, noise).view_as(theirs)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    images = pipeline.vae.decode(theirs / pipeline.vae.config.scaling_factor, return_dict=False)[0]
    torch.testing.assert_close(
        objective.pictures(ours.flatten(1)), ((images + 1) / 2).clamp(0, 1), atol=1e-4, rtol=1e-4
    )


@needs_diffusers
def test_a_checkpoint_without_a_part_is_refused(tmp_path: Path) -> None:
    for part in ("unet", "vae", "text_encoder", "tokenizer"):
        with pytest.raises(ConfigError, match=rf"has no part '{part}' that can be read.*folder of Stable Diffusion 1"):
            part_of(str(tmp_path), part)  # type: ignore[arg-type]


@pytest.mark.nightly
def test_what_does_not_fit_a_checkpoint_is_refused(checkpoint: Path, cache: Path) -> None:
    broken = cache / "broken"
    shutil.copytree(checkpoint, broken)
    shutil.rmtree(broken / "unet")
    with pytest.raises(ConfigError, match=r"has no part 'unet' that can be read.*folder of Stable Diffusion 1"):
        prepare(latent_run(broken))
    place = str(checkpoint)
    with pytest.raises(ConfigError, match="takes square images whose side 2 divides, and gets"):
        prepare(latent_run(checkpoint, features={"name": "stable-diffusion-latents", "checkpoint": place, "size": 15}))
    with pytest.raises(ConfigError, match=r"square rows of 4 channels \(features: stable-diffusion-latents\)"):
        prepare(latent_run(checkpoint, features=None))
    with pytest.raises(ConfigError, match=r"denoises latents of 4 channels under prompts of its own tokenizer"):
        prepare(latent_run(checkpoint, features=None, objective={"name": "denoising", "styles": "none"}))
