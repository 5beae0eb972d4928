"""The contract of batches: `[]`, `cat`, `put`, `to` and `len`, for every class of them."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch
from torch import Tensor

import hybridfit
from hybridfit.batch import Batch, shared
from hybridfit.calibration.sbc_samples import SbcSamples
from hybridfit.comparison.differences import Pairs
from hybridfit.data.cutouts import Cutouts
from hybridfit.data.diagnostics import NetworkDiagnostics, SamplingDiagnostics
from hybridfit.data.fit import Fit
from hybridfit.data.result import Result
from hybridfit.data.samples import Draws, Posterior
from hybridfit.io.references.catalogue import Catalogue
from hybridfit.model.parameters import ParameterSpace
from hybridfit.npe.density import FlowDensity
from hybridfit.npe.frame import Frame
from hybridfit.npe.inputs import Inputs
from hybridfit.npe.laplace import Laplace
from hybridfit.npe.normal_equations import NoiseLevel, NormalEquations
from hybridfit.sampling.importance_sampling import WeightedDraws
from hybridfit.sampling.proposal import EvaluatedDraws, Mixture, NonlinearProposal, PriorProposal
from hybridfit.sampling.student_t import StudentT
from hybridfit.simulation.options import SimulatedFields
from hybridfit.training.data import Shard
from hybridfit.uncertainty.correlated_noise import Autocorrelation

N, S = 5, 3
SPACE = ParameterSpace()
Q = len(SPACE.names)


def numbers(*shape: int) -> Tensor:
    """Different numbers in every entry, so that a wrong row shows."""
    return torch.arange(1.0, 1.0 + N * int(np.prod(shape)), dtype=torch.float64).view(N, *shape)


def counts() -> Tensor:
    return torch.arange(N)


def cutouts() -> Cutouts:
    psf = torch.ones(3, 3) / 9
    names = [f"galaxy {i}" for i in range(N)]
    return Cutouts(numbers(4, 6), numbers(4, 6), psf, id=names, wcs=[object() for _ in range(N)])


def fit() -> Fit:
    return Fit(SPACE, numbers(Q), numbers(Q, Q), numbers(), counts(), counts(), counts())


def frame() -> Frame:
    two = ("centre", "nominal")
    return Frame(**{f.name: numbers(2) if f.name in two else numbers() for f in fields(Frame)})


def level() -> NoiseLevel:
    return NoiseLevel(numbers(), numbers(), numbers(2), numbers())


def laplace() -> Laplace:
    return Laplace(numbers(8), numbers(8, 8))


def inputs() -> Inputs:
    return Inputs(numbers(5, 4, 4), numbers(7), frame(), level(), laplace())


def draws() -> Draws:
    return Draws(SPACE, numbers(S, Q), numbers(S))


def sampling() -> SamplingDiagnostics:
    return SamplingDiagnostics(numbers(), numbers(), numbers(), numbers(), counts())


def network() -> NetworkDiagnostics:
    return NetworkDiagnostics(counts(), numbers(), counts())


def student() -> NonlinearProposal:
    return NonlinearProposal(StudentT(numbers(6), numbers(6, 6), 5.0))


def result() -> Result:
    notes = tuple(f"note {i}" for i in range(N))
    return Result(fit(), counts() % 3, draws(), sampling(), flux=numbers(), notes=notes)


# by which what the classes check when they are made is met; others are made without a check
EXAMPLES: dict[type[Batch], Callable[[], Any]] = {
    Autocorrelation: lambda: Autocorrelation(numbers(3, 3), numbers()),
    Cutouts: cutouts,
    Catalogue: lambda: Catalogue(
        "theirs", "table", [str(i) for i in range(N)], np.random.default_rng(0).random((N, 2, 7))
    ),
    Draws: draws,
    Fit: fit,
    FlowDensity: lambda: FlowDensity(
        torch.nn.Identity(), numbers(4), frame(), counts() > 1, SPACE, laplace()
    ),
    Frame: frame,
    Inputs: inputs,
    Laplace: laplace,
    Mixture: lambda: Mixture(numbers(3), numbers(3, S), (student(), PriorProposal(), student())),
    NoiseLevel: level,
    NormalEquations: lambda: NormalEquations(numbers(8, 8), numbers(8), numbers(2), numbers(2)),
    Pairs: lambda: Pairs(
        counts().numpy(),
        counts()[:, None].numpy(),
        *[numbers(8).numpy()] * 4,
        numbers(2, 8).numpy(),
        True,
    ),
    Posterior: lambda: Posterior(SPACE, numbers(S, Q), log_prob=numbers(S), diagnostics=network()),
    Result: result,
    SbcSamples: lambda: SbcSamples(("x", "pa"), numbers(S, 2), numbers(2), numbers(S)),
    SimulatedFields: lambda: SimulatedFields(cutouts(), numbers(Q), numbers(), counts(), numbers()),
    Shard: lambda: Shard(numbers(2, 4, 4), numbers(7), numbers(8), numbers(), counts(), numbers()),
}
# what may be left out of these
WITHOUT = {
    Inputs: {"laplace": None},
    FlowDensity: {"laplace": None},
    Result: {"draws": None, "notes": ()},
    Cutouts: {"psf": None},
}


def classes() -> set[type[Batch]]:
    """Every class of batches in the package."""
    for module in pkgutil.walk_packages(hybridfit.__path__, "hybridfit."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found, new = set(), [Batch]
    while new:
        new = [kind for parent in new for kind in parent.__subclasses__()]
        found |= {kind for kind in new if kind.__module__.startswith("hybridfit.")}
    return {kind for kind in found if fields(kind)}  # the prior as a proposal has no rows


def made(kind: type[Batch], without: bool = False) -> Any:
    """An example of any class, by the types of its fields; nothing is checked.

    Args:
        kind: of batch.
        without: leaves out what may be None.
    """
    if kind in EXAMPLES:
        return EXAMPLES[kind]()
    hints, example = get_type_hints(kind), object.__new__(kind)
    for f in fields(kind):
        value = entry(hints[f.name], without) if not f.metadata.get("shared") else (object(),)
        object.__setattr__(example, f.name, value)
    return example


def entry(hint: Any, without: bool) -> Any:
    """What a field of this type may hold."""
    choices = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if without and NoneType in choices:
        return None
    first = choices[0]
    if first is Tensor:
        return numbers(2)
    if get_origin(first) is tuple:
        return tuple(object() for _ in range(N))
    return (
        made(first, without) if isinstance(first, type) and issubclass(first, Batch) else object()
    )


def examples() -> Iterator[Any]:
    """Every class of batches, and those with something that may be None without it."""
    for kind in sorted(classes(), key=lambda kind: kind.__name__):
        yield pytest.param(lambda kind=kind: made(kind), id=kind.__name__)
        if kind in WITHOUT:
            some = lambda kind=kind: replace(EXAMPLES[kind](), **WITHOUT[kind])  # noqa: E731
            yield pytest.param(some, id=f"{kind.__name__} without {', '.join(WITHOUT[kind])}")
        elif kind not in EXAMPLES and any(NoneType in get_args(h) for h in hints_of(kind)):
            yield pytest.param(lambda kind=kind: made(kind, True), id=f"{kind.__name__} with None")


def hints_of(kind: type[Batch]) -> list[Any]:
    return [get_type_hints(kind)[f.name] for f in fields(kind)]


def assert_same(one: Any, other: Any) -> None:
    """Both of one type, with the same entries in every field."""
    assert type(one) is type(other)
    if isinstance(one, Batch):
        for f in fields(one):
            assert_same(getattr(one, f.name), getattr(other, f.name))
    elif isinstance(one, Tensor):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
    elif isinstance(one, np.ndarray):
        np.testing.assert_array_equal(one, other)
    elif isinstance(one, tuple):
        assert len(one) == len(other)
        for mine, theirs in zip(one, other, strict=True):
            assert_same(mine, theirs)
    else:
        assert one is other or one == other


@pytest.mark.parametrize("make", examples())
def test_rows_put_together_are_the_batch(make):
    whole = make()
    assert len(whole) == N
    kind = type(whole)
    assert_same(kind.cat([whole[:2], whole[2], whole[[3, 4]]]), whole)
    assert_same(kind.cat([whole]), whole)
    back = whole[::-1]
    assert_same(back[torch.tensor([4, 3, 2, 1, 0])], whole)
    mask = torch.tensor([True, False, False, True, False])
    assert_same(whole[mask], whole[[0, -2]])
    assert_same(whole[mask.numpy()], whole[np.array([0, 3])])
    assert len(whole[[]]) == len(whole[5:]) == 0
    assert [len(one) for one in whole] == [1] * N


@pytest.mark.parametrize("make", examples())
def test_a_batch_moves_to_a_device(make):
    whole = make()
    assert_same(whole.to("cpu"), whole)
    moved = whole.to("meta")
    for f in fields(whole):
        before, after = getattr(whole, f.name), getattr(moved, f.name)
        if isinstance(before, Tensor):
            assert after.device.type == "meta"
            assert after.shape == before.shape
    assert len(moved) == N


@pytest.mark.parametrize("make", [frame, laplace, inputs])
def test_rows_can_be_replaced(make):
    whole = make()
    rows = torch.tensor([3, 0])
    assert_same(whole.put(rows, whole[[1, 2]])[[0, 1, 2, 3, 4]], whole[[2, 1, 2, 1, 4]])


@pytest.mark.parametrize(
    ("index", "error", "text"),
    [
        (N, IndexError, "row 5 is not there: 5 galaxies have rows 0 to 4"),
        ([0, -N - 1], IndexError, "row -6 is not there"),
        (np.array([True, False]), IndexError, r"a mask of shape \(2,\) came for 5 galaxies"),
        (torch.ones(N + 1, dtype=torch.bool), IndexError, "a mask of shape"),
        (torch.tensor([N]), IndexError, "out of bounds"),
        ("0", TypeError, "index is '0', expected row numbers, a slice or a mask"),
        (1.5, TypeError, "index is 1.5, expected row numbers"),
        (None, TypeError, "index is None"),
    ],
)
def test_rows_that_are_not_there(index, error, text):
    with pytest.raises(error, match=text):
        fit()[index]


def test_batches_that_do_not_go_together():
    with pytest.raises(ValueError, match="no Fit came, expected one or more"):
        Fit.cat([])
    some, none = result(), replace(result(), draws=None)
    with pytest.raises(ValueError, match=r"Result\.draws is missing in some of 2 batches"):
        Result.cat([some, none])
    small = Cutouts(torch.ones(1, 3, 3), torch.ones(1, 3, 3), None)
    with pytest.raises(
        ValueError, match=r"rows of Cutouts\.image have the shapes \(3, 3\), \(4, 6"
    ):
        Cutouts.cat([replace(cutouts(), psf=None), small])


def test_columns_arrays_mappings_and_what_is_shared():
    """Fields of other kinds, as tables and mixtures of densities have them."""

    @dataclass(frozen=True)
    class Table(Batch):
        columns: tuple[Fit, ...]
        values: np.ndarray
        quantiles: dict[float, np.ndarray]
        levels: tuple[float, ...] = shared(default=(0.16, 0.84))
        dof: float = 5.0

    array = numbers(2).numpy()
    whole = Table((fit(), fit()), array, {0.5: array})
    part = whole[[1, 0]]
    assert len(part) == len(part.columns[1]) == 2
    assert part.levels == (0.16, 0.84)
    assert np.array_equal(part.values, array[[1, 0]])
    joined = Table.cat([part, whole[2:]])
    assert np.array_equal(joined.quantiles[0.5], array[[1, 0, 2, 3, 4]])
    assert_same(joined.columns[1], fit()[[1, 0, 2, 3, 4]])


def test_cutouts_are_shown_in_one_line():
    text = repr(cutouts())
    assert "\n" not in text
    assert len(text) < 100
    assert text.startswith("Cutouts(5 of 4 x 6 pixels, PSFs 3 x 3, id: 'galaxy 0', 'galaxy 1'")
    assert "no PSF" in repr(replace(cutouts(), psf=None))


def test_old_names_of_a_result_are_told():
    with pytest.warns(FutureWarning, match=r"Result\.khat is now called Result\.pareto_k"):
        old = result().khat
    assert torch.equal(old, numbers())
    with pytest.raises(AttributeError, match="no attribute 'kappa'"):
        _ = result().kappa
    posterior = EXAMPLES[Posterior]()
    with pytest.warns(FutureWarning, match=r"Posterior\.draws is now called Posterior"):
        assert posterior.draws is posterior


def test_draws_of_other_numbers_are_filled_up():
    few = replace(draws(), samples=numbers(2, Q), weights=numbers(2))
    both = Draws.cat([few, draws()])
    assert both.samples.shape == (2 * N, S, Q)
    assert torch.isnan(both.samples[:N, 2]).all()
    assert (both.weights[:N, 2] == 0).all()
    assert_same(both[N:], draws())
    torch.testing.assert_close(both[:N].mean, few.mean)
    longer = EXAMPLES[Posterior]().padded(S + 1)
    assert longer.log_prob.shape == (N, S + 1)


def test_nested_draws_go_with_the_others():
    points = EvaluatedDraws(numbers(S, 6), numbers(S, 2), numbers(S), numbers(S))
    twice = EvaluatedDraws.joined([points, points])
    one = WeightedDraws(points, numbers(S), sampling())
    more = WeightedDraws(twice, numbers(2 * S), sampling())
    assert more.draw_count == more.points.draw_count == 2 * S
    both = WeightedDraws.cat([more, one])
    assert_same(both[:N], more)
    assert torch.isnan(both.points.whitened[N:, S:]).all()
    assert (both.weights[N:, S:] == 0).all()
    assert_same(both[N:].points.target[:, :S], points.target)
