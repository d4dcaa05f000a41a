"""Fit a mask to the grid of its image: the order of stored voxels, pages and planes, as far as the files prove it.

Two files that show the same place may store it differently: NIfTI states by its affine where a voxel lies, a mask can
have a page for each label, and programs call the same pages sections, frames or color. What the files prove is done
here, for training and scores alike; what they do not prove is left as it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from septum.io.image import Affine, Image, StoredImage
from septum.io.upright import turn_upright
from septum.pairing.object_folders import smaller_on_top

Change = Literal["oriented", "label-pages", "upright"]
"""A change of what the file holds; the names of pages do not count."""

_SAME_VOXEL = 0.5  # sides of a voxel: closer corners belong to the same voxel
_NAMED = 1e-3  # sides of a voxel: affines that are equal but for rounding


@dataclass(frozen=True)
class Grid:
    """Place of the pixels of an image.

    Attributes
    ----------
    axes, shape, file_axes, affine, orientation, full_sides
        See `septum.io.image.Image`.
    """

    axes: str
    shape: tuple[int, ...]
    file_axes: str
    affine: Affine | None = None
    orientation: int = 1
    full_sides: tuple[int, int] | None = None

    @property
    def sides_xyz(self) -> tuple[int, int, int]:
        """Sides along X, Y and Z, 1 for an axis that is missing."""
        sides = dict(zip(self.axes, self.shape, strict=True))
        return sides["X"], sides["Y"], sides.get("Z", 1)


def grid_of(image: Image) -> Grid:
    """Return the grid of an image."""
    return Grid(image.axes, image.shape, image.file_axes, image.affine, image.orientation, image.full_sides)


def fit_mask(mask: Image, grid: Grid) -> tuple[Image, tuple[Change, ...]]:
    """Fit a mask to the grid of its image.

    Pages are named as in the image: a file does not always state whether they are sections, frames or planes of color.
    Pages that the image lacks become one mask if each holds one value beside 0: 1 on the first page, 2 on the second;
    where two overlap the smaller one is kept. A mask that the affines place voxel by voxel on the image, in another
    order of axes or mirrored, is put in the order of the image. A mask that has the sides of a photograph as stored,
    not as its orientation tag shows it, is turned like the photograph.

    Parameters
    ----------
    mask
        The mask, of any real dtype and values.
    grid
        The grid of its image.

    Returns
    -------
    mask, changes
        The mask in the axes of the image where its pages allow it, and what was changed.
    """
    changes: list[Change] = []
    fitted = _name_pages(_pages_first(mask, grid), grid)
    if (merged := _merge_label_pages(fitted, grid)) is not None:
        fitted = merged
        changes.append("label-pages")
    if (turned := _turn(fitted, grid)) is not None:
        fitted = turned
        changes.append("upright")
    if (oriented := _orient(fitted, grid)) is not None:
        fitted = oriented
        changes.append("oriented")
    return fitted, tuple(changes)


def holds_all_axes(image: Image) -> bool:
    """Return True if an image in memory has all dimensions of its file, so that they can get other names."""
    return set(image.file_axes) <= set(image.axes) and image.orientation == 1


def with_axes(image: Image, axes: str) -> Image:
    """Return an image whose dimensions in the file are named by `axes` instead."""
    order = [image.axes.index(axis) for axis in image.file_axes]
    missing = [at for at in range(len(image.axes)) if at not in order]  # C of length 1
    array = image.array.transpose([*missing, *order]).reshape([image.shape[at] for at in order])
    stored = StoredImage.from_array(array, axes)
    stored = replace(stored, pixel_size_um=image.pixel_size_um, affine=image.affine)
    return Image(stored, image.location, named=True).load()


def _with_array(image: Image, array: NDArray[Any], axes: str, affine: Affine | None = None) -> Image:
    changed = Image.from_array(
        array,
        axes,
        file_axes=image.file_axes,
        pixel_size_um=image.pixel_size_um,
        affine=affine or image.affine,
        location=image.location,
    )
    changed.stated, changed.named_axes, changed.orientation = image.stated, image.named_axes, image.orientation
    return changed


def _name_pages(mask: Image, grid: Grid) -> Image:
    """Return the mask with T, Z and planes of color named as in the image."""
    pages = [a for a in "TZ" if a in grid.axes]
    if len(pages) != 1:
        return mask
    wanted = pages[0]
    other = "Z" if wanted == "T" else "T"
    if wanted in mask.axes:
        return mask
    if other in mask.axes:
        axes = mask.axes.replace(other, wanted)
        order = [axes.index(a) for a in "TCZYX" if a in axes]
        return _with_array(mask, mask.array.transpose(order), "".join(axes[i] for i in order))
    planes = mask.file_axes == "CYX" and mask.array.shape[0] == grid.shape[grid.axes.index(wanted)] > 1
    if not planes:
        return mask
    array = mask.array[:, np.newaxis] if wanted == "T" else mask.array[np.newaxis]
    return _with_array(mask, array, "TCYX" if wanted == "T" else "CZYX")


def _pages_first(mask: Image, grid: Grid) -> Image:
    """Return an array ``(Y, X, N)`` of a page for each label as pages, where the sides of the image prove the order."""
    sides = grid.shape[-2:]
    unnamed = mask.axes == "TCYX" and not mask.stated and not {"T", "Z"} & set(grid.axes)
    if not unnamed or (mask.shape[0], mask.shape[2]) != sides or mask.shape[2:] == sides:
        return mask
    return _with_array(mask, np.ascontiguousarray(np.moveaxis(mask.array, 3, 0).swapaxes(1, 2)), "TCYX")


def _merge_label_pages(mask: Image, grid: Grid) -> Image | None:
    """Return the mask whose pages of one label each are merged; None if they are no such pages."""
    extra = [a for a in mask.axes if a in "TZ" and a not in grid.axes]
    if len(extra) != 1:
        return None
    pages = np.moveaxis(mask.array, mask.axes.index(extra[0]), 0)
    if len(pages) < 2 or pages.shape[2:] != tuple(grid.shape[grid.axes.index("C") + 1 :]):
        return None
    if mask.array.dtype.kind not in "biuf" or not all(_holds_one_label(page) for page in pages):
        return None
    labels = smaller_on_top([page.max(axis=0) > 0 for page in pages])
    return _with_array(mask, labels[np.newaxis], mask.axes.replace(extra[0], ""))


def _holds_one_label(page: NDArray[Any]) -> bool:
    """Return True if a page ``(C, *S)`` holds 0 and at most one other value, above 0."""
    highest = page.max()
    return bool(((page == 0) | (page == highest)).all()) and bool(highest >= 0)


def _turn(mask: Image, grid: Grid) -> Image | None:
    """Return the mask turned upright as its photograph; None unless its sides are those of the stored one."""
    sides = mask.shape[-2:]
    if grid.orientation == 1 or mask.orientation != 1 or sides == grid.shape[-2:] or sides != grid.shape[:-3:-1]:
        return None
    turned = Image(turn_upright(StoredImage.from_array(mask.array, mask.axes), grid.orientation), named=True)
    return _with_array(mask, turned.array, mask.axes)


def _orient(mask: Image, grid: Grid) -> Image | None:
    """Return the mask in the order of voxels of its image; None if it is in this order, or not on the same voxels."""
    if not _comparable(grid_of(mask), grid):
        return None
    from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation, ornt_transform

    placed = _in_unit_of(grid_of(mask), grid)
    turn = ornt_transform(io_orientation(placed), io_orientation(np.asarray(grid.affine)))
    if np.array_equal(turn, [[0, 1], [1, 1], [2, 1]]):
        return None
    affine = placed @ inv_ornt_aff(turn, grid_of(mask).sides_xyz)
    turned_axes = mask.axes if "Z" in mask.axes else mask.axes.replace("Y", "ZY")
    array = mask.array if "Z" in mask.axes else np.expand_dims(mask.array, mask.axes.index("Y"))
    turned = apply_orientation(array.transpose(), turn).transpose()  # X Y Z C T and back
    if turned.shape[-3:] != grid.sides_xyz[::-1] or _distance(affine, grid) >= _SAME_VOXEL:
        return None
    if "Z" not in grid.axes:
        turned, turned_axes = turned[..., 0, :, :], turned_axes.replace("Z", "")
    return _with_array(mask, np.ascontiguousarray(turned), turned_axes, grid.affine)


def _comparable(mask: Grid, image: Grid) -> bool:
    """Return True if both state where X, Y and Z lie."""
    return (
        mask.affine is not None
        and image.affine is not None
        and all(grid.file_axes.startswith("XY") for grid in (mask, image))
        and all(abs(np.linalg.det(np.asarray(grid.affine)[:3, :3])) > 0 for grid in (mask, image))
    )


def _in_unit_of(mask: Grid, image: Grid) -> NDArray[np.float64]:
    """Return the affine of a mask, with the unit of its image where the header of one of them lacks it.

    Masks saved with the affine of an image in micrometers, but without its header, state no unit: their voxels seem to
    be 1,000 times as large. Where the sizes differ by 1,000 or a power of it, the same numbers mean the same place.
    """
    own, other = np.asarray(mask.affine), np.asarray(image.affine)
    times = math.cbrt(abs(np.linalg.det(other[:3, :3]) / np.linalg.det(own[:3, :3])))
    power = 1000.0 ** round(math.log(times, 1000))
    return np.diag([power] * 3 + [1.0]) @ own if math.isclose(times, power, rel_tol=1e-2) else own


def _distance(affine: NDArray[np.float64], grid: Grid) -> float:
    """Return the largest distance of corners between two affines of the same voxels, in sides of the smallest voxel."""
    own = np.asarray(grid.affine)
    corners = np.stack(np.meshgrid(*[(0, n - 1) for n in grid.sides_xyz], indexing="ij"), -1).reshape(-1, 3)
    apart = corners @ (affine - own)[:3, :3].T + (affine - own)[:3, 3]
    return float(np.linalg.norm(apart, axis=1).max() / np.linalg.norm(own[:3, :3], axis=0).min())


def orientation_codes(affine: Affine) -> str:
    """Return where X, Y and Z lead, as NIfTI names it: ``"LPS"`` is to the left, to the back, to the head."""
    from nibabel.orientations import aff2axcodes

    return "".join(code or "?" for code in aff2axcodes(np.asarray(affine)))


@dataclass(frozen=True)
class Disagreement:
    """Affines that do not place the voxels of image and mask on one another.

    Attributes
    ----------
    text
        How the two differ, as a phrase: ``"image LPS, mask RAS"``.
    certain
        Both affines state a direction, and the directions differ: pairing the voxels as stored would be wrong.
    """

    text: str
    certain: bool


def disagreement(mask: Grid, image: Grid) -> Disagreement | None:
    """Compare the affines of a mask as `fit_mask` returns it, and of its image; None where both agree or are unknown.

    Sides that differ are another error.
    """
    if mask.affine == image.affine or not _comparable(mask, image) or mask.sides_xyz != image.sides_xyz:
        return None
    assert mask.affine is not None
    assert image.affine is not None
    placed = _in_unit_of(mask, image)
    if _distance(placed, image) < _SAME_VOXEL:
        return None
    codes = orientation_codes(image.affine), orientation_codes(mask.affine)
    if codes[0] != codes[1]:
        certain = not (_is_default(mask) or _is_default(image))
        return Disagreement(f"image {codes[0]}, mask {codes[1]}", certain)
    apart = float(np.linalg.norm(placed[:3, 3] - np.asarray(image.affine)[:3, 3]))
    steps = [np.linalg.norm(affine[:3, :3], axis=0) for affine in (np.asarray(image.affine), placed)]
    if not np.allclose(steps[0], steps[1], rtol=1e-2):
        sizes = [" x ".join(f"{s:.3g}" for s in step) for step in steps]
        return Disagreement(f"voxels of {sizes[0]} mm, mask {sizes[1]} mm", False)
    return Disagreement(f"first voxels {apart:.3g} mm apart" if apart else "axes turned", False)


def _is_default(grid: Grid) -> bool:
    """Return True for affines that stand for an unknown place: the identity, or centered and mirrored along X."""
    affine, sides = np.asarray(grid.affine), np.asarray(grid.sides_xyz)
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    equal = partial(np.allclose, rtol=0, atol=_NAMED * steps.max())
    if equal(affine[:3, :3], np.diag(steps)) and equal(affine[:3, 3], 0):
        return True
    centered = np.diag([*(steps * (-1, 1, 1)), 1.0])
    centered[:3, 3] = -centered[:3, :3] @ ((sides - 1) / 2)
    return bool(equal(affine, centered))
