"""What is passed along: cutouts, fits, flags and options check themselves when they are made."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, dataclass

import numpy as np
import pytest
import torch

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.fit import Fit
from hybridfit.data.flags import FLAG_TEXT, Flag, describe_flags
from hybridfit.model.parameters import ParameterSpace
from hybridfit.options.yaml_options import load_yaml, make

PSF = np.full((3, 3), 1 / 9)


def some(n: int = 3, **more) -> Cutouts:  # type: ignore[no-untyped-def]
    image = torch.arange(n * 20.0).reshape(n, 4, 5)
    return Cutouts(**{"image": image, "sigma": image * 0 + 1, "psf": PSF, **more})


def test_bad_pixels_are_masked_and_filled() -> None:
    image, sigma = torch.ones(1, 4, 5), torch.ones(1, 4, 5)
    image[0, 0, 0], image[0, 0, 1] = torch.nan, torch.inf
    sigma[0, 1, 0], sigma[0, 1, 1], sigma[0, 1, 2] = 0.0, -1.0, torch.nan
    given = torch.zeros(1, 4, 5, dtype=torch.bool)
    given[0, 3, 4] = True
    cutouts = Cutouts(image=image, sigma=sigma, psf=None, mask=given)
    assert int(cutouts.mask.sum()) == 6
    assert (cutouts.image[cutouts.mask] == 0).all()
    assert (cutouts.sigma[cutouts.mask] == 1).all()
    assert torch.isnan(image[0, 0, 0])  # what came is left as it was
    assert int(given.sum()) == 1


def test_defaults_and_columns_for_all() -> None:
    cutouts = some(zeropoint=25.0, psf_oversampling=[1, 2, 1], origin=[10.0, 20.0])
    assert cutouts.id == ("0", "1", "2")
    assert cutouts.psf is not None
    assert cutouts.psf.shape == (3, 3, 3)
    assert cutouts.zeropoint.tolist() == [25.0] * 3
    assert cutouts.psf_oversampling.tolist() == [1, 2, 1]
    assert cutouts.origin.tolist() == [[10.0, 20.0]] * 3
    assert cutouts.size.tolist() == [[4, 5]] * 3
    assert torch.isnan(cutouts.start).all()
    assert torch.isnan(cutouts.pixel_scale).all()
    assert not cutouts.flags.any()


def test_rows() -> None:
    cutouts = some(id=["a", "b", "c"], zeropoint=[1.0, 2.0, 3.0], messages=["", "x", ""])
    part = cutouts[[2, 0]]
    assert part.id == ("c", "a")
    assert part.zeropoint.tolist() == [3.0, 1.0]
    assert torch.equal(part.image, cutouts.image[[2, 0]])
    assert cutouts[1:].messages == ("x", "")
    assert len(cutouts[:0]) == 0
    assert cutouts[[-1]].id == ("c",)
    assert torch.equal(cutouts.to("cpu").image, cutouts.image)
    with pytest.raises(FrozenInstanceError):
        cutouts.image = cutouts.image  # type: ignore[misc]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"image": np.zeros((4, 5))}, "expected 3 .B, H, W.: for one galaxy pass"),
        ({"sigma": np.ones((3, 4, 4))}, r"sigma has shape \(3, 4, 4\), expected \(3, 4, 5\)"),
        ({"mask": np.ones((3, 4, 4))}, "mask has shape"),
        ({"psf": np.full((4, 3), 1 / 12)}, r"psf has sides \(4, 3\), expected odd ones"),
        ({"psf": PSF * 0.93, "id": ["a", "b", "c"]}, "psf of galaxy 'a' sums to 0.93, expected 1"),
        ({"psf": PSF * np.nan}, "sums to nan"),
        ({"zeropoint": [1.0, 2.0]}, r"zeropoint has shape \(2,\), expected \(3,\)"),
        ({"start": np.zeros((3, 6))}, r"start has shape \(3, 6\), expected \(3, 7\)"),
        ({"wcs": [None]}, "wcs has 1 entries, expected 3"),
        ({"messages": ["", ""]}, "messages has 2 entries"),
        ({"id": ["a"]}, "1"),
    ],
)
def test_what_does_not_fit_together(wrong: dict, said: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(ValueError, match=said):
        some(**wrong)


# --- results --------------------------------------------------------------------------------


def test_every_flag_has_its_own_bit_and_text() -> None:
    assert set(FLAG_TEXT) == set(Flag)
    assert all(int(f).bit_count() == 1 for f in Flag)
    said = describe_flags(int(Flag.NO_DATA | Flag.NOT_CONVERGED))
    assert [line.split(":")[0] for line in said] == ["NOT_CONVERGED", "NO_DATA"]
    assert describe_flags(0) == []


def made(columns: int = 8) -> Fit:
    whole = torch.arange(3)
    covariance = torch.eye(columns).double().repeat(3, 1, 1) * 4
    covariance[1, 0, 0], covariance[2, 0, 0] = -1.0, torch.nan
    theta = torch.arange(3.0 * columns).double().reshape(3, columns)
    return Fit(ParameterSpace(), theta, covariance, whole.double(), whole, whole, whole)


def test_fit_rows_and_errors() -> None:
    fit = made()
    assert len(fit) == 3
    assert fit.error[0].tolist() == [2.0] * 8
    assert torch.isnan(fit.error[1:, 0]).all()
    assert fit[torch.tensor([2, 0])].flags.tolist() == [2, 0]
    assert len(fit[:1].to("cpu")) == 1


def test_a_fit_of_other_parameters() -> None:
    with pytest.raises(ValueError, match=r"theta has shape \(3, 7\), expected \(3, 8\): one"):
        made(7)


# --- options --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Options:
    size: int = 3
    name: str = "a"


def test_options_from_yaml(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "options.yaml"
    path.write_text("size: 5\n")
    assert make(Options, load_yaml(path)) == Options(5)
    path.write_text("")
    assert make(Options, load_yaml(path)) == Options()
    path.write_text("- a\n- b\n")
    with pytest.raises(ValueError, match="contains list, expected 'key: value' lines"):
        load_yaml(path)
    path.write_text("a: [1\n")
    with pytest.raises(ValueError, match="is not valid YAML"):
        load_yaml(path)
    with pytest.raises(ValueError, match="unknown option 'sise' in options: did you mean 'size'"):
        make(Options, {"sise": 3})
    with pytest.raises(ValueError, match="unknown option 'zzz' in fit: known are size, name"):
        make(Options, {"zzz": 3}, "fit")
