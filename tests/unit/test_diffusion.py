"""Noise schedules, samplers, prompts and the objective that makes images of them."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from lifelong.models import mlp_denoiser
from strategies.objectives._base import EVALUATION
from strategies.objectives.denoising import Config, Denoising, image_shape
from strategies.parts.diffusion.prompts import NOTHING, prompts_of
from strategies.parts.diffusion.sampling import ddim, dpm_solver
from strategies.parts.diffusion.schedules import STEPS, Prediction, ScheduleKind, alpha_bars, make_schedule
from strategies.parts.model import FlatModel
from streams.config import parse
from streams.data import Batch
from streams.errors import ConfigError
from streams.ledger import Ledger
from streams.randomness import Key, seeded_globals
from streams.source import Source
from streams.sources import digits

SCHEDULES: dict[ScheduleKind, dict[str, Any]] = {
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "linear": {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
    "scaled-linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
}
KINDS: dict[Prediction, str] = {"sample": "sample", "epsilon": "epsilon", "velocity": "v_prediction"}


@pytest.fixture(scope="module")
def diffusers() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("diffusers")


def start() -> torch.Tensor:
    return torch.sin(torch.arange(48, dtype=torch.float64) * 7).view(4, 12) * 1.5


def network(x: torch.Tensor, time: int) -> torch.Tensor:
    weight = torch.cos(torch.arange(144, dtype=torch.float64) ** 2).view(12, 12) / 3
    return torch.tanh(x @ weight + time / 500)


def ends(kind: str, prediction: Prediction, steps: int) -> torch.Tensor:
    """What our sampler makes of that noise with that function as its network."""
    schedule = make_schedule("linear", prediction)

    def clean(noisy: torch.Tensor, time: int) -> torch.Tensor:
        return schedule.clean(network(noisy, time), noisy, torch.full((len(noisy),), time))

    return (dpm_solver if kind == "dpm" else ddim)(clean, start(), alpha_bars("linear"), steps)


@pytest.mark.nightly
@pytest.mark.parametrize("kind", SCHEDULES)
def test_schedules_are_those_of_diffusers(kind: ScheduleKind, diffusers: Any) -> None:
    theirs = diffusers.DDPMScheduler(num_train_timesteps=STEPS, **SCHEDULES[kind]).alphas_cumprod
    torch.testing.assert_close(alpha_bars(kind).float(), theirs, rtol=2e-4, atol=1e-9)


@pytest.mark.parametrize("prediction", KINDS)
def test_what_is_predicted_stands_for_the_clean_image(prediction: Prediction) -> None:
    schedule = make_schedule("cosine", prediction)
    clean, noise = torch.rand(5, 7) * 2 - 1, torch.randn(5, 7)
    time = torch.tensor([0, 10, 400, 700, 900])
    noisy = schedule.noised(clean, noise, time)
    target = schedule.target(clean, noise, time)
    torch.testing.assert_close(schedule.clean(target, noisy, time), clean, atol=1e-4, rtol=1e-4)
    a, b = schedule.signal, schedule.noise
    torch.testing.assert_close(a.square() + b.square(), torch.ones(STEPS))


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of numpy, in diffusers
@pytest.mark.parametrize("prediction", KINDS)
@pytest.mark.parametrize("kind", ["dpm", "ddim"])
@pytest.mark.parametrize("steps", [1, 2, 15, 30])
def test_samplers_are_those_of_diffusers(kind: str, prediction: Prediction, steps: int, diffusers: Any) -> None:
    """With any function of image and step in place of a network."""
    noise = start()
    if kind == "dpm":
        theirs = diffusers.DPMSolverMultistepScheduler(
            num_train_timesteps=STEPS,
            prediction_type=KINDS[prediction],
            thresholding=True,
            sample_max_value=1.0,
            **SCHEDULES["linear"],
        )
    else:
        theirs = diffusers.DDIMScheduler(
            num_train_timesteps=STEPS, prediction_type=KINDS[prediction], clip_sample=True, **SCHEDULES["linear"]
        )
    theirs.set_timesteps(steps)
    x = noise.view(4, 1, 3, 4)
    for t in theirs.timesteps:
        x = theirs.step(network(x.flatten(1), int(t)).view_as(x), t, x).prev_sample
    ours = ends(kind, prediction, steps)
    torch.testing.assert_close(ours, x.flatten(1), atol=5e-3, rtol=5e-3)


@pytest.mark.parametrize(
    ("kind", "prediction", "expected"),
    [
        ("dpm", "sample", [0.87416, 0.56359, 0.11972, -0.48776]),
        ("dpm", "epsilon", [1.0, -0.95841, -1.0, -1.0]),
        ("ddim", "sample", [0.71558, 0.29121, 0.12089, -0.43247]),
        ("ddim", "epsilon", [0.86516, -0.36461, 1.0, 0.24214]),
    ],
)
def test_samplers_end_where_diffusers_does(kind: str, prediction: Prediction, expected: list[float]) -> None:
    """Numbers that both gave (diffusers 0.42.1)."""
    torch.testing.assert_close(ends(kind, prediction, 15)[1, :4].tolist(), expected, atol=1e-3, rtol=0)


def test_dpm_takes_as_many_steps_as_there_are() -> None:
    """Of 1,000 even steps two round to the same one, between which nothing changes."""
    assert bool(dpm_solver(lambda x, time: 0.5 * x, torch.ones(1, 2), alpha_bars("linear"), 1000).isfinite().all())


def test_without_a_limit_the_sampler_leaves_the_range_of_images() -> None:
    """The trap: on a cosine schedule a network that errs a little in the noise draws anything."""
    schedule, shares = make_schedule("cosine", "epsilon"), alpha_bars("cosine")
    noise = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))

    def clean(noisy: torch.Tensor, time: int) -> torch.Tensor:
        a, b = schedule.signal[time], schedule.noise[time]
        e = 3 * torch.tanh((noisy - a * 0.5) / b / 3)  # all images are 0.5, and no noise is larger than 3
        return schedule.clean(e, noisy, torch.full((len(noisy),), time))

    assert float(dpm_solver(clean, noise, shares, 15, None).abs().max()) > 5
    held = dpm_solver(clean, noise, shares, 15)
    assert float(held.abs().max()) <= 1


# -- the objective


@pytest.fixture(scope="module")
def source() -> Source:
    return digits.load(digits.Config())


@pytest.fixture(scope="module")
def objective(source: Source) -> Denoising:
    return make(source)


def make(source: Source, **options: Any) -> Denoising:
    return Denoising.for_data(parse(Config, options), source, None, "cpu")


def styled(source: Source) -> Source:
    """The digits in three styles."""
    domains = np.arange(len(source), dtype=np.int64) % 3
    return replace(source, domain_ids=domains, domain_names=("thin", "plain", "bold"))


def model_of(objective: Denoising, source: Source) -> FlatModel:
    config = mlp_denoiser.Config(width=24, blocks=2, words=8)
    with seeded_globals(Key(0)):
        network = mlp_denoiser.build(config, *objective.sizes(source.input_shape))
        torch.nn.init.normal_(network.head.weight, std=0.1)
    model = FlatModel(network)
    model.train(False)
    return model


def some(source: Source, count: int = 50) -> Batch:
    return Ledger(source).lend(source.train_ids[:count]).all()


def test_a_draw_is_a_function_of_name_and_sample(objective: Denoising, source: Source) -> None:
    batch = some(source, 1000)
    drawn = objective.drawn(batch, Key(3) / "a")
    assert drawn.extra.keys() == {"time", "noise", "told", "style"}
    alone = objective.drawn(batch.part(7, 9), Key(3) / "a")
    for name, column in drawn.extra.items():
        assert torch.equal(alone.extra[name], column[7:9])
    other = objective.drawn(batch, Key(3) / "b")
    assert abs(float((other.extra["noise"] * drawn.extra["noise"]).mean())) < 0.02
    assert float(drawn.extra["noise"].std()) == pytest.approx(1, abs=0.02)
    assert 0 <= int(drawn.extra["time"].min()) < 20
    assert 980 < int(drawn.extra["time"].max()) < STEPS
    assert float(drawn.extra["told"].float().mean()) == pytest.approx(0.9, abs=0.04)
    assert objective.drawn(batch, EVALUATION).extra["told"].all(), "who looks from outside always tells"
    assert make(source, drop=0).drawn(batch, Key(3)).extra["told"].all()


def test_the_loss_is_the_error_of_what_is_predicted(source: Source) -> None:
    batch = some(source)
    for prediction in KINDS:
        objective = make(source, prediction=prediction)
        drawn = objective.drawn(batch, EVALUATION)
        clean, e, time = 2 * batch.x - 1, drawn.extra["noise"], drawn.extra["time"]
        a, b = (v[time].unsqueeze(1) for v in (objective.schedule.signal, objective.schedule.noise))
        target = {"sample": clean, "epsilon": e, "velocity": a * e - b * clean}[prediction]
        assert not objective.losses(target, drawn).any()
        losses = objective.losses(target + 0.5, drawn)
        torch.testing.assert_close(losses, torch.full((50,), 0.25))
        assert torch.equal(objective.scores(target + 0.5, drawn), -losses)


def test_the_prompt_follows_the_label_and_is_dropped_where_nothing_is_told(source: Source) -> None:
    """Who relabels a sample asks for another image; who drops the prompt asks for any."""
    objective = make(styled(source))
    assert objective.prompts.num_words == 1 + 10 + 3
    model, drawn = model_of(objective, source), objective.drawn(some(source), EVALUATION)
    words = objective.tokens(torch.stack([drawn.y, drawn.extra["style"]], 1))
    assert words[0].tolist() == [1 + int(drawn.y[0]), 11 + int(drawn.extra["style"][0])]
    plain = objective.outputs(model, drawn)
    others = objective.outputs(model, replace(drawn, y=(drawn.y + 1) % 10))
    assert not torch.isclose(plain, others).all(1).any()
    untold = [
        objective.outputs(model, replace(b, extra={**b.extra, "told": torch.zeros(50, dtype=torch.bool)}))
        for b in (drawn, replace(drawn, y=(drawn.y + 1) % 10))
    ]
    assert torch.equal(*untold)
    style = replace(drawn, extra={**drawn.extra, "style": (drawn.extra["style"] + 1) % 3})
    assert not torch.isclose(plain, objective.outputs(model, style)).all(1).any()


def test_who_predicts_is_told_the_label_and_not_whose_it_is(objective: Denoising, source: Source) -> None:
    batch = objective.drawn(some(source), EVALUATION)
    asked = objective.asked(batch)
    assert torch.equal(asked.y, batch.y)
    assert (asked.ids == -1).all()


def test_images_are_named_by_prompt_and_number(objective: Denoising, source: Source) -> None:
    prompts = np.array([[3, NOTHING], [3, NOTHING], [4, NOTHING]])
    noise = objective.noise(prompts, np.array([0, 1, 0]))
    assert len(torch.unique(noise[:, 0])) == 3
    assert torch.equal(objective.noise(prompts[[2, 0]], np.array([0, 0])), noise[[2, 0]])
    model = model_of(objective, source)
    images = objective.sample(lambda b: objective.outputs(model, b), prompts, noise)
    assert images.shape == (3, 1, 8, 8)
    assert float(images.min()) >= 0
    assert float(images.max()) <= 1
    again = objective.sample(lambda b: objective.outputs(model, b), prompts, noise)
    assert torch.equal(images, again)


def test_guidance_extrapolates_from_the_empty_prompt(source: Source) -> None:
    """One step from noise ends at the predicted image, so that guidance can be read off."""
    prompts = np.array([[1, NOTHING], [2, NOTHING]])

    def predicted(guidance: float) -> torch.Tensor:
        objective = make(source, guidance=guidance, steps=1)
        sizes: list[int] = []

        def predict(batch: Batch) -> torch.Tensor:
            sizes.append(len(batch))
            return 0.1 * objective.tokens(torch.stack([batch.y, batch.extra["style"]], 1)).float().expand(-1, 64)

        images = objective.sample(predict, prompts, objective.noise(prompts, np.zeros(2, dtype=np.int64)))
        assert sizes == [2 if guidance == 1 else 4]
        return 2 * images.flatten(1)[:, 0] - 1

    words = torch.tensor([2.0, 3.0])  # word 0 is that of the empty prompt
    for guidance in (0.0, 1.0, 2.0, 3.0):
        torch.testing.assert_close(predicted(guidance), guidance * 0.1 * words)


def test_a_source_reads_out_its_prompts(source: Source) -> None:
    prompts = prompts_of(styled(source), "a {object} in {style} style", with_styles=True)
    assert prompts.text(np.array([3, 2])) == "a 3 in bold style"
    assert prompts.text(np.array([NOTHING, NOTHING])) == ""
    assert prompts.of(np.array([0, 1, 30])).shape[1] == 2
    assert len(np.unique(prompts.numbers(prompts.of(source.train_ids)))) == 30
    everything = prompts.tokens.view(-1, 2)
    assert len(torch.unique(everything, dim=0)) == 11 * 4
    assert int(everything.max()) == prompts.num_words - 1


def test_per_sample_gradients_are_exact(objective: Denoising, source: Source) -> None:
    """Every trained weight lies in a layer whose gradients per sample can be read off: Fisher takes a pass or two."""
    from strategies.parts.weights.fisher import diagonal_fisher, gradient_of

    model, data = model_of(objective, source), Ledger(source).lend(source.train_ids[:6])
    fisher, cost = diagonal_fisher(model, objective, data, "empirical", Key(0))
    assert cost.backward == 6
    batch = objective.drawn(data.all(), EVALUATION)
    losses = objective.losses(objective.outputs(model, batch), batch)
    slow = torch.stack([gradient_of(model, loss, retain=True).square() for loss in losses]).mean(0)
    torch.testing.assert_close(fisher, slow, atol=1e-9, rtol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"template": "a picture"}, r"names nothing; put \{object\}"),
        ({"template": "{object} by {artist}"}, r"has \{artist\}"),
        ({"template": "{object} in {style}"}, "names a style, and prompts have none"),
        ({"steps": 0}, "steps"),
        ({"steps": 1001}, "steps"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str, source: Source) -> None:
    with pytest.raises(ConfigError, match=message):
        make(source, **options)


def test_bad_data_is_refused(source: Source) -> None:
    with pytest.raises(ConfigError, match="makes images with labels"):
        make(replace(source, y=source.y.float()))
    with pytest.raises(ConfigError, match=r"numbers in \[0, 1\], and those of 'digits' lie in -1 to 1"):
        make(replace(source, x=2 * source.x - 1))
    with pytest.raises(ConfigError, match=r"square rows, and a sample of 'odd' is \[60\]"):
        image_shape((60,), "odd")
    assert math.prod(image_shape((3, 4, 4), "any")) == 48
