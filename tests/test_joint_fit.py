"""Joint fits of targets and neighbours: as many sources as there are, and the right one first."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from fit_helpers import differences
from neighbour_helpers import SIDE, scenes, source, with_star

from hybridfit.data.cutouts import Cutouts
from hybridfit.fitting.fit import fit_cutouts
from hybridfit.fitting.joint_fit import JointFit, joint_fits
from hybridfit.fitting.joint_scene import JointStart, joint_scene
from hybridfit.fitting.options import FitOptions
from hybridfit.fitting.source_starts import MOST, source_starts
from hybridfit.model.declaration import declared_scene

OPTIONS = FitOptions(compile="off")


def fitted(cutouts: Cutouts) -> list[JointFit]:
    starts = [found.joint(7) for found in source_starts(cutouts)]
    return joint_fits(cutouts, OPTIONS, starts)


def only(groups: list[JointFit]) -> JointFit:
    assert len(groups) == 1
    return groups[0]


def test_a_pair_is_fitted_as_well_as_from_the_truth() -> None:
    cutouts, truth = scenes(source(0, 0), source(9, 3, mag=20.6), snr=150, count=4, seed=1)
    group = only(fitted(cutouts))
    assert group.kinds == ("sersic",)
    assert sorted(group.rows.tolist()) == [0, 1, 2, 3]
    fit = group.fitted.fit
    best = fit_cutouts(cutouts, replace(OPTIONS, model="sersic+sersic"), compile=False, scene=None)
    assert float((fit.chi2 - best.chi2[group.rows]).max()) < 1.0
    off = differences(fit.theta.numpy(), truth[group.rows.numpy()], fit.space) / fit.error.numpy()
    assert np.abs(off).max() < 5.0  # 60 values of unit scatter


def test_a_hidden_companion_comes_out_of_the_residual() -> None:
    # four pixels apart, where the image and its Laplacian have one maximum
    cutouts, truth = scenes(source(0, 0), source(4, 1, mag=20.8, r_eff=2), snr=150, count=3, seed=2)
    assert all(len(found.neighbours) == 0 for found in source_starts(cutouts))
    group = only(fitted(cutouts))
    assert group.kinds == ("sersic",)
    alone = fit_cutouts(cutouts, OPTIONS, compile=False)
    assert float((alone.theta[:, 2] - torch.tensor(truth[:, 2])).abs().min()) > 0.2  # blended
    assert float((group.fitted.fit.theta[:, 2] - torch.tensor(truth[:, 2])).abs().max()) < 0.2


@pytest.mark.parametrize("n", [0.7, 1.5, 4.0])
def test_one_galaxy_stays_alone(n: float) -> None:
    cutouts, _ = scenes(source(0.3, 0.2, r_eff=4, n=n, q=0.4), snr=150, count=8, seed=3)
    groups = fitted(cutouts)
    assert all(not group.kinds for group in groups)


def test_the_target_is_the_source_at_its_place() -> None:
    # the brighter one is not the target if the other stands where the target is expected
    cutouts, truth = scenes(source(0, 0, mag=20.8), source(7, 0, mag=20.0), snr=150)
    middle = (SIDE - 1) / 2
    start = torch.full((1, 7), torch.nan, dtype=torch.float64)
    start[0, :2] = torch.tensor([middle + 7.0, middle])
    for given, wanted in ((cutouts, 0), (replace(cutouts, start=start), 1)):
        group = only(fitted(given))
        expected = truth[0, 7 * wanted : 7 * wanted + 2]
        found = group.fitted.fit.theta[0]
        assert np.hypot(*(found[:2].numpy() - expected)) < 0.5
        assert abs(float(found[2]) - truth[0, 7 * wanted + 2]) < 0.1


def test_a_star_is_a_point() -> None:
    cutouts, _ = scenes(source(0, 0), snr=120, count=3, seed=5)
    groups = fitted(with_star(cutouts, 9.0, -2.0, 19.0))
    assert sum(len(group.rows) for group in groups) == 3
    for group in groups:
        assert group.kinds == ("point",)
        assert torch.allclose(group.fitted.fit.theta[:, 9], torch.tensor(19.0).double(), atol=0.1)


def test_a_source_without_light_goes() -> None:
    cutouts, _ = scenes(source(0, 0), snr=120)
    sky = torch.tensor([[10.0, 50.0, 22.0, 2.0, 1.8, 0.8, 0.0]], dtype=torch.float64)
    darker = cutouts.image.clone()
    darker[0, 46:55, 6:15] -= 3.0  # where a source can only take light away
    start = JointStart(source_starts(cutouts)[0].target, sky, ("sersic",))
    group = only(joint_fits(replace(cutouts, image=darker), OPTIONS, [start]))
    assert group.kinds == ()


def test_the_most_important_neighbours_first() -> None:
    many = [source(0, 0, mag=19.5)]
    many += [source(x, y, mag=20.5, r_eff=1.5) for x in (-20, 0, 20) for y in (-20, 20)]
    many += [source(x, 0, mag=20.5, r_eff=1.5) for x in (-22, 22)]
    cutouts, _ = scenes(*many, snr=300)
    found = source_starts(cutouts)[0]
    assert len(found.neighbours) == MOST == 7
    assert bool(found.others.any())  # the eighth is left, and its pixels are known
    distance = torch.hypot(found.neighbours[:, 0] - 31.5, found.neighbours[:, 1] - 31.5)
    assert float(distance[0]) < 21


def test_scenes_name_target_and_neighbours() -> None:
    scene = joint_scene(declared_scene("sersic"), ("sersic", "point"))
    assert [c.name for c in scene.components] == ["target1", "neighbour1", "neighbour2"]
    named = joint_scene(declared_scene("bulge+disk"), ("sersic",))
    assert [c.name for c in named.components] == ["bulge", "disk", "neighbour1"]
    assert len(named.sources) == 2
