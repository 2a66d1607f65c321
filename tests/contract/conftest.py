"""Every strategy there is on one short life of real digits, watched at the door: what is tested where, and fixtures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from contract.candidates import (
    FORMS,
    OTHER_FORMS,
    Candidate,
    candidates,
    image_candidates,
    learning_halves,
    own_candidates,
    picture_candidates,
    text_candidates,
)
from contract.lived import (
    Lived,
    begin,
    end_of,
    forget_lives,
    generators,
    go_on,
    life_of,
    resumed,
    resumed_again_and_again,
    whole_of,
    wholes_of,
)
from contract.recorded import places
from contract.worlds import World, world_of

from strategies.base import Access
from strategies.step import ledger_after
from streams.ledger import Life


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--own", metavar="KIND=FILE", help="test that learner, unlearner, guard or isolated strategy instead"
    )


def _param(candidate: Candidate, form: str, *more: object, by_default: bool = True, what: str = "") -> object:
    """A candidate in a form as parameters; tests of one id share a life, and a process (see `group_of`)."""
    by_default &= not candidate.sampled and (form in (candidate.home, *OTHER_FORMS) or candidate.in_all_forms)
    marks = [] if by_default else [pytest.mark.nightly]
    return pytest.param(candidate, form, *more, marks=marks, id=f"{form}-{candidate.name}{what}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give each test its candidates in every form, or as the test asks for by what it takes.

    home: in the form whose life they have in any case. everything: there, in worlds where all is deleted. keeper:
    there, if what they keep is their own; of these, all but what lives in every form wait for the night. recorded: once
    each, there, on text or with pictures. every: in all forms; whether to look at everything that happens, in most at
    night.
    """
    own = metafunc.config.getoption("--own", None)
    if "half" in metafunc.fixturenames:
        halves = learning_halves()
        if own is not None:
            halves = [(c, "class-incremental") for c in own_candidates(own) if not c.forgets]
        metafunc.parametrize(("half", "place"), halves, ids=[c.name for c, _ in halves])
    if "candidate" not in metafunc.fixturenames:
        return
    every = candidates() if own is None else own_candidates(own)
    asked = {"home", "everything", "keeper", "recorded", "every"} & set(metafunc.fixturenames)
    if "everything" in asked:
        worlds = ("everything", "everything-task-aware")
        params = [_param(c, c.home, w, by_default=c.in_all_forms, what=f"-{w}") for w in worlds for c in every]
        metafunc.parametrize(("candidate", "home", "everything"), params)
        return
    if "home" in asked:
        metafunc.parametrize(("candidate", "home"), [_param(c, c.home, by_default=c.in_all_forms) for c in every])
        return
    if "recorded" in asked:
        pairs = [(c, f) for c, f in places() if own is None]
        metafunc.parametrize(("candidate", "recorded"), [_param(c, f) for c, f in pairs])
        return
    if "keeper" in asked:
        metafunc.parametrize(
            ("candidate", "keeper"), [_param(c, c.home, by_default=c.keeps and c.in_all_forms) for c in every]
        )
        return
    pairs = [(c, f) for f in FORMS for c in every if c.lives(f)]
    if own is None:
        pairs += [(c, "text") for c in text_candidates()] + [(c, "pictures") for c in picture_candidates()]
        pairs += [(c, "images") for c in image_candidates()]
    if "every" in asked:
        params = [_param(c, f, c.in_depth(f)) for c, f in pairs]
        params += [_param(c, f, True, by_default=False, what="-every") for c, f in pairs if not c.in_depth(f)]
        metafunc.parametrize(("candidate", "form", "every"), params)
    else:
        metafunc.parametrize(("candidate", "form"), [_param(c, f) for c, f in pairs])


def _parameters(item: pytest.Item | None) -> str:
    return "" if item is None else item.nodeid.partition("[")[2]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """Let go of lives when the tests that share them are done: each holds its state after every event."""
    yield
    if _parameters(item) != _parameters(nextitem):
        forget_lives()


@pytest.fixture
def world(form: str, candidate: Candidate) -> World:
    return world_of(candidate.place(form))


@pytest.fixture
def life(world: World, candidate: Candidate) -> Lived:
    return life_of(world, candidate)


@dataclass(frozen=True)
class Kit:
    """What test modules use."""

    world = staticmethod(world_of)
    life = staticmethod(life_of)
    begin = staticmethod(begin)
    go_on = staticmethod(go_on)
    end_of = staticmethod(end_of)
    wholes_of = staticmethod(wholes_of)
    resumed = staticmethod(resumed)
    resumed_again_and_again = staticmethod(resumed_again_and_again)
    whole_of = staticmethod(whole_of)
    ledger_after = staticmethod(ledger_after)
    generators = staticmethod(generators)
    candidates = staticmethod(candidates)
    Lived = Lived
    full = Access(forget_set=True, retained="full")
    LEARNED = int(Life.LEARNED)


@pytest.fixture(scope="session")
def kit() -> Kit:
    return Kit()
