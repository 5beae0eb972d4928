"""Starts of doubtful fits: other sizes and indices, the same place."""

from __future__ import annotations

import torch

from hybridfit.fitting.other_starts import other_starts
from hybridfit.model.compile import compile_scene
from hybridfit.model.declaration import declared_scene


def coords_of(space, sizes: tuple[float, ...]) -> torch.Tensor:
    coords = torch.full((1, space.n_coords), 0.35, dtype=torch.float64)
    ellipses = [c.start for c, k in zip(space.slices(), space.components, strict=True) if k.shape]
    for start, size in zip(ellipses, sizes, strict=True):
        coords[0, start + 2] = size
    return coords


def test_one_ellipse_changes_its_size_and_index():
    space = compile_scene(declared_scene("sersic+point"))
    coords = coords_of(space, (1.0,))
    starts = list(other_starts(coords, space))
    assert len(starts) == 3
    for start in starts:
        assert torch.equal(start[:, :2], coords[:, :2])
        assert torch.equal(start[:, 6:], coords[:, 6:])  # of the point
        assert torch.equal(start[:, 4:6], 0.5 * coords[:, 4:6])
        assert start[0, 3] != coords[0, 3]


def test_the_smallest_of_several_ellipses_is_the_bulge():
    """Whatever their order; in one start the smallest and the largest exchange their sizes."""
    space = compile_scene(declared_scene("sersic+moffat"))
    for small, sizes in ((0, (0.5, 2.0)), (1, (2.0, 0.5))):
        coords = coords_of(space, sizes)
        at = [columns.start + 2 for columns in space.slices()]
        found = torch.stack([start[0, at] for start in other_starts(coords, space)])
        change = found[3:6] - coords[0, at]
        assert (change[:, small] <= 0).all()
        assert (change[:, 1 - small] >= 0).all()
        assert found[6].tolist() == list(reversed(sizes))
