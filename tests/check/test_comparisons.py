"""Defects that show only in comparison with the other images: found if planted, not reported in clean data."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy import ndimage

from septum.check.check import Report, check
from septum.check.repair import fix
from septum.check.samples import load_samples
from septum.errors import DataError
from septum.training.split import hold_out, split_sentence

SIDE, COUNT = 96, 9
Pair = tuple[np.ndarray, np.ndarray]


@lru_cache(maxsize=64)
def nuclei(seed: int, sides: tuple[int, ...] = (SIDE, SIDE), radius: float = 5) -> Pair:
    """Return an image of bright disks (balls) and their ids."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(sides, np.uint16)
    grid = np.indices(sides)
    for _ in range(400):
        center = rng.uniform(0, sides)
        disk = ((grid - center[(...,) + (None,) * len(sides)]) ** 2).sum(axis=0) < (radius * rng.uniform(0.8, 1.2)) ** 2
        if labels.max() < 10 + seed % 5 and not ndimage.binary_dilation(disk)[labels > 0].any():
            labels[disk] = labels.max() + 1
    image = ndimage.gaussian_filter(np.where(labels > 0, 120.0, 30.0), 0.8) + rng.normal(0, 4, sides)
    return image.astype(np.uint8), labels


def make(folder: Path, change: Callable[[int, Pair], Pair] | None = None, count: int = COUNT) -> Path:
    for number in range(count):
        image, mask = nuclei(number) if change is None else change(number, nuclei(number))
        for role, array in (("images", image), ("masks", mask)):
            (folder / role).mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(folder / role / f"cell{number}.tif", array, photometric="minisblack")
    return folder


def codes(report: Report) -> set[str]:
    return {f.code for f in report.issues}


def details(report: Report, code: str) -> dict[str, str]:
    found = [f for f in report.issues if f.code == code]
    return {p.stem: d for f in found for p, d in zip(f.files, f.details, strict=True)}


def only(*numbers: int) -> Callable[[Callable[[Pair], Pair]], Callable[[int, Pair], Pair]]:
    """Change some of the pairs."""
    return lambda change: lambda number, pair: change(pair) if number in numbers else pair


def test_clean_data_have_no_issue(tmp_path: Path) -> None:
    assert check([make(tmp_path)]).issues == ()


def test_missing_ids_are_no_issue(tmp_path: Path) -> None:
    assert check([make(tmp_path, lambda _, p: (p[0], np.where(p[1] % 3 == 1, 0, 5 * p[1])))]).issues == ()


# Masks that do not lie on their images


def same_copy(before: Report, tmp_path: Path) -> None:
    """Assert that a copy has the masks of training, and no issue."""
    list(fix(before, tmp_path / "copy"))
    after = check([tmp_path / "copy"])
    assert after.issues == ()
    for old, new in zip(load_samples(before), load_samples(after), strict=True):
        np.testing.assert_array_equal(new.mask, old.mask)


@pytest.mark.parametrize(
    ("turn", "words"),
    [
        (lambda m: m.T, "transposed"),
        (lambda m: m[::-1], "mirrored along Y"),
        (lambda m: m[:, ::-1], "mirrored along X"),
        (lambda m: np.rot90(m), "transposed, mirrored along X"),
        (lambda m: m[::-1, ::-1], "mirrored along Y and X"),
    ],
)
@pytest.mark.parametrize("numbers", [(2,), tuple(range(COUNT))])
def test_masks_that_seem_turned_are_named_and_only_the_copy_turns_them(
    tmp_path: Path, turn: Callable[[np.ndarray], np.ndarray], words: str, numbers: tuple[int, ...]
) -> None:
    report = check([make(tmp_path / "data", only(*numbers)(lambda p: (p[0], turn(p[1]).copy())))])
    assert [f.code for f in report.warnings] == ["mask-turned"] == list(codes(report))
    assert details(report, "mask-turned") == {f"cell{n}": words for n in numbers}
    for number, sample in enumerate(load_samples(report)):
        mask = nuclei(number)[1]
        np.testing.assert_array_equal(sample.mask, turn(mask) if number in numbers else mask)
    list(fix(report, tmp_path / "copy"))
    after = check([tmp_path / "copy"])
    assert after.issues == ()
    for number, sample in enumerate(load_samples(after)):
        np.testing.assert_array_equal(sample.mask, nuclei(number)[1])


@pytest.mark.parametrize(("shift", "numbers"), [((7, -12), (4,)), ((20, 3), (1, 5)), ((2, 0), tuple(range(COUNT)))])
def test_masks_that_seem_shifted_are_named_and_only_the_copy_moves_them(
    tmp_path: Path, shift: tuple[int, int], numbers: tuple[int, ...]
) -> None:
    report = check([make(tmp_path / "data", only(*numbers)(lambda p: (p[0], np.roll(p[1], shift, axis=(0, 1)))))])
    assert codes(report) <= {"mask-shifted", "object-split", "object-apart"}  # rolled objects are cut
    assert report.mended == ()
    assert set(details(report, "mask-shifted")) == {f"cell{n}" for n in numbers}
    if shift[1] < 0:
        assert details(report, "mask-shifted")["cell4"] == "shifted by 7 pixels along Y and -12 pixels along X"
    for number, sample in enumerate(load_samples(report)):
        mask = nuclei(number)[1]
        np.testing.assert_array_equal(sample.mask, np.roll(mask, shift, axis=(0, 1)) if number in numbers else mask)
    repaired = list(fix(report, tmp_path / "copy"))
    assert sum("undoes the shift" in " ".join(r.done) for r in repaired) == len(numbers)
    for number, sample in enumerate(load_samples(check([tmp_path / "copy"]))):
        known = sample.mask >= 0
        np.testing.assert_array_equal(sample.mask[known] > 0, nuclei(number)[1][known] > 0)
        assert (~known).sum() == (0 if number not in numbers else SIDE**2 - np.prod(SIDE - np.abs(shift)))


def ellipses(seed: int) -> Pair:
    """Return an image of bright ellipses that may touch, and their ids."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    labels = np.zeros((SIDE, SIDE), np.int16)
    while labels.max() < 5:
        radius = rng.uniform(5, 9)
        cy, cx = rng.uniform(radius + 1, SIDE - radius - 1), rng.uniform(radius + 1, SIDE - radius - 1)
        inside = (y - cy) ** 2 / radius**2 + (x - cx) ** 2 / (1.2 * radius) ** 2 < 1
        if (labels[inside] > 0).mean() <= 0.05:
            labels[inside & (labels == 0)] = labels.max() + 1
    image = 40 + rng.normal(0, 6, labels.shape) + 110 * (labels > 0) * (0.7 + 0.3 * rng.random(6))[labels]
    return image.clip(0, 255).astype(np.uint8), labels


def test_masks_with_wide_unannotated_rims_are_no_shifted_masks(tmp_path: Path) -> None:
    def rim(number: int, _: Pair) -> Pair:
        image, labels = ellipses(number)
        wide = ndimage.grey_dilation(labels, (3, 3)) != ndimage.grey_erosion(labels, (3, 3))
        return jpeg(image, 95), np.where(wide, 255, np.array([0, 2, 15, 7, 2, 15])[labels]).astype(np.uint8)

    # These outlines fit nearly as well one pixel off, by chance in the same direction along X in six of the eight.
    assert codes(check([make(tmp_path, rim, 8)])) == {"class-values", "ignore-rim"}


def test_frames_of_a_stack_are_judged_together(tmp_path: Path) -> None:
    pages, masks = (np.stack(arrays) for arrays in zip(*(nuclei(n) for n in range(6)), strict=True))
    tifffile.imwrite(tmp_path / "a.tif", pages, photometric="minisblack")
    tifffile.imwrite(tmp_path / "a_mask.tif", masks.transpose(0, 2, 1), photometric="minisblack")
    report = check([tmp_path])
    assert codes(report) == {"mask-turned"}
    list(fix(report, tmp_path / "copy"))
    for number, sample in enumerate(load_samples(check([tmp_path / "copy"]))):
        np.testing.assert_array_equal(sample.mask, masks[number])


def test_masks_drawn_a_little_too_large_are_no_issue(tmp_path: Path) -> None:
    def wide(pair: Pair) -> Pair:
        grown = ndimage.grey_dilation(pair[1], size=7)
        return pair[0], np.where(pair[1] > 0, pair[1], grown)

    assert check([make(tmp_path, only(1, 6)(wide))]).issues == ()


def test_a_mask_of_another_image_is_not_taken_for_a_shifted_one(tmp_path: Path) -> None:
    report = check([make(tmp_path, lambda n, p: (p[0], nuclei({2: 6, 6: 2}.get(n, n))[1]))])
    assert codes(report) == {"mask-astray"}
    assert set(details(report, "mask-astray")) == {"cell2", "cell6"}


def volumes(folder: Path, sides: tuple[int, int, int], order: tuple[int, int, int]) -> Path:
    for number in range(3):
        image, mask = nuclei(number, sides, 4)
        for role, array in (("images", image), ("masks", mask.transpose(order))):
            (folder / role).mkdir(parents=True, exist_ok=True)
            np.save(folder / role / f"{number}a.npy", array)
            tifffile.imwrite(folder / role / f"{number}a.tif", array, metadata={"axes": "ZYX"}, ome=True)
            (folder / role / f"{number}a.npy").unlink()
    return folder


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0)])
def test_axes_that_the_sides_of_a_volume_decide_are_mended(tmp_path: Path, order: tuple[int, int, int]) -> None:
    sides = (20, 26, 32)
    report = check([volumes(tmp_path / "data", sides, order)])
    assert codes(report) == ({"axes-swapped"} if order != (0, 1, 2) else set())
    assert report.rules.rank == 3
    for number, sample in enumerate(load_samples(report)):
        np.testing.assert_array_equal(sample.mask, nuclei(number, sides, 4)[1])
    same_copy(report, tmp_path)


@pytest.mark.parametrize(
    ("sides", "order", "code"),
    [
        ((24, 24, 36), (2, 1, 0), "axes-unclear"),
        ((24, 24, 36), (1, 0, 2), "mask-turned"),
        ((28, 28, 28), (2, 1, 0), "mask-turned"),
        ((28, 28, 28), (1, 0, 2), "mask-turned"),
    ],
)
def test_axes_that_only_the_edges_of_a_volume_show_are_put_in_order_by_the_copy(
    tmp_path: Path, sides: tuple[int, int, int], order: tuple[int, int, int], code: str
) -> None:
    report = check([volumes(tmp_path / "data", sides, order)])
    assert code in codes(report)
    assert report.mended == ()
    if code == "axes-unclear":
        with pytest.raises(DataError, match="which the sides alone do not decide") as caught:
            list(load_samples(report))
        assert "--fix" in caught.value.todo
    else:
        np.testing.assert_array_equal(next(iter(load_samples(report))).mask, nuclei(0, sides, 4)[1].transpose(order))
    list(fix(report, tmp_path / "copy"))
    after = check([tmp_path / "copy"])
    assert after.issues == ()
    for number, sample in enumerate(load_samples(after)):
        np.testing.assert_array_equal(sample.mask, nuclei(number, sides, 4)[1])


# One id on several objects


def one_id(pair: Pair) -> Pair:
    """Give the object that is farthest from object 1 its id."""
    image, mask = pair
    centers = np.array(ndimage.center_of_mass(mask > 0, mask, range(1, int(mask.max()) + 1)))
    far = int(np.hypot(*(centers - centers[0]).T).argmax()) + 1
    return image, np.where(mask == far, 1, mask)


def test_one_id_on_objects_far_apart_is_named_and_only_the_copy_renumbers_it(tmp_path: Path) -> None:
    report = check([make(tmp_path / "data", only(3)(one_id))])
    assert codes(report) == {"object-apart"}
    assert details(report, "object-apart") == {"cell3": "id 1"}
    truth = nuclei(3)[1]
    np.testing.assert_array_equal(list(load_samples(report))[3].mask, one_id((truth, truth))[1])
    list(fix(report, tmp_path / "copy"))
    after = check([tmp_path / "copy"])
    assert after.issues == ()
    sample = list(load_samples(after))[3]
    assert len(np.unique(sample.mask)) == len(np.unique(truth))
    np.testing.assert_array_equal(sample.mask > 0, truth > 0)


def test_specks_and_objects_seen_in_pieces_are_no_split_ids(tmp_path: Path) -> None:
    def speck(pair: Pair) -> Pair:
        image, mask = pair[0], pair[1].copy()
        free = ndimage.distance_transform_edt(mask == 0)
        mask[np.unravel_index(free.argmax(), mask.shape)] = 1  # one pixel
        return image, mask

    assert check([make(tmp_path / "speck", only(3)(speck))]).issues == ()

    def behind(pair: Pair) -> Pair:
        image, mask = pair[0].copy(), pair[1].copy()
        mask[40:60, 20:70], mask[40:60, 42:47] = 50, 51  # 51 lies over 50
        image[40:60, 20:70] = 90
        return image, mask

    report = check([make(tmp_path / "behind", only(3)(behind))])
    assert codes(report) == {"object-split"}
    assert (list(load_samples(report))[3].mask == 50).sum() == 20 * 45


# Copies


def near(how: Callable[[np.ndarray], np.ndarray]) -> Callable[[int, Pair], Pair]:
    def change(number: int, pair: Pair) -> Pair:
        return (how(nuclei(0)[0]), nuclei(0)[1]) if number == 7 else pair

    return change


def jpeg(image: np.ndarray, quality: int = 70) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


@pytest.mark.parametrize(
    ("how", "turned"),
    [
        (jpeg, ""),
        (lambda i: (i * 0.7 + 20).astype(np.uint8), ""),
        (lambda i: i.astype(np.uint16) * 200, ""),
        (lambda i: np.rot90(i).copy(), ", turned or mirrored"),
        (lambda i: i[:, ::-1].copy(), ", turned or mirrored"),
    ],
)
def test_near_duplicates_are_on_one_side_of_the_split(
    tmp_path: Path, how: Callable[[np.ndarray], np.ndarray], turned: str
) -> None:
    report = check([make(tmp_path, near(how))])
    assert details(report, "near-duplicate") == {"cell7": f"= cell0.tif{turned}"}
    samples = list(load_samples(report))
    assert [s.copy_of for s in samples] == ["cell0" if n in (0, 7) else "" for n in range(COUNT)]
    for seed in range(12):
        held = hold_out(samples, seed=seed)[1]
        assert (0 in held) == (7 in held)
        assert held


def test_copies_of_stacks_are_trained_on(tmp_path: Path) -> None:
    report = check([make(tmp_path, near(jpeg))])
    samples = list(load_samples(report))
    moved = [s.__class__(**{**vars(s), "group": "a" if n != 7 else "", "position": -n}) for n, s in enumerate(samples)]
    train, held = hold_out(moved, seed=0)
    assert {0, 7} <= set(train)
    assert held


def test_copies_of_one_image_are_not_split(tmp_path: Path) -> None:
    report = check(
        [make(tmp_path, lambda n, p: (np.clip(nuclei(0)[0] + 3 * n, 0, 255).astype(np.uint8), nuclei(0)[1]), 3)]
    )
    samples = list(load_samples(report))
    assert hold_out(samples, seed=0) == ([0, 1, 2], [])
    assert split_sentence(samples, []).startswith("all images are copies of one: none is held out")


def test_frames_that_hardly_change_are_a_sequence(tmp_path: Path) -> None:
    base, mask = nuclei(0)
    frames = [
        (base + np.random.default_rng(n).normal(0, 1, base.shape)).clip(0, 255).astype(np.uint8) for n in range(9)
    ]
    report = check([make(tmp_path, lambda n, _: (frames[n], mask))])
    assert [f.message for f in report.warnings] == [
        "9 of 9 images look like frames of one sequence: the last fifth of them is held out"
    ]
    assert hold_out(list(load_samples(report)), seed=3)[1] == [7, 8]


# Images unlike the others


def test_dim_and_inverted_images_are_named_with_figures(tmp_path: Path) -> None:
    def odd(number: int, pair: Pair) -> Pair:
        if number == 1:
            return (pair[0] // 25).astype(np.uint8), pair[1]
        return (255 - pair[0], pair[1]) if number == 4 else pair

    report = check([make(tmp_path / "data", odd)])
    assert codes(report) == {"intensity-outlier", "intensity-unlike"}
    assert set(details(report, "intensity-outlier")) == {"cell1"}
    assert "gray values" in details(report, "intensity-outlier")["cell1"]
    assert set(details(report, "intensity-unlike")) == {"cell4"}
    assert "as if inverted" in details(report, "intensity-unlike")["cell4"]


def test_large_images_and_objects_are_named_with_figures(tmp_path: Path) -> None:
    def large(number: int, pair: Pair) -> Pair:
        block = np.ones((9, 9), np.uint8)
        return (np.kron(pair[0], block), np.kron(pair[1], block)) if number == 3 else pair

    report = check([make(tmp_path, large)])
    assert details(report, "size-outlier") == {"cell3": "864 x 864, usual 96 x 96"}
    assert set(details(report, "object-size-outlier")) == {"cell3"}
    assert codes(report) == {"size-outlier", "object-size-outlier"}


# Channels


@pytest.mark.parametrize(("order", "axes"), [((2, 0, 1), "CYX"), ((0, 1, 2), "YXC")])
def test_pages_that_are_channels_are_read_as_channels(tmp_path: Path, order: tuple[int, ...], axes: str) -> None:
    for number in range(3):
        image, mask = nuclei(number)
        (tmp_path / "data/images").mkdir(parents=True, exist_ok=True)
        (tmp_path / "data/masks").mkdir(parents=True, exist_ok=True)
        both = np.stack([image, 255 - image], axis=-1)
        np.save(tmp_path / f"data/images/{number}a.npy", both.transpose(order))
        np.save(tmp_path / f"data/masks/{number}a.npy", mask)
    report = check([tmp_path / "data"])
    assert codes(report) == {"pages-channels"}
    assert axes in report.lines()[-1]
    assert (report.rules.channels, report.rules.rank) == (2, 2)
    for number, sample in enumerate(load_samples(report)):
        np.testing.assert_array_equal(sample.image, [nuclei(number)[0], 255 - nuclei(number)[0]])
        np.testing.assert_array_equal(sample.mask, nuclei(number)[1])
    same_copy(report, tmp_path)


def test_a_stack_with_one_annotated_page_is_no_image_of_channels(tmp_path: Path) -> None:
    for number in range(3):
        image, mask = nuclei(number)
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "masks").mkdir(exist_ok=True)
        np.save(tmp_path / f"images/{number}a.npy", np.stack([image] * (2 + number)))
        np.save(tmp_path / f"masks/{number}a.npy", mask)
    assert "pages-differ" in codes(check([tmp_path]))


def colored(value: int | None, *numbers: int) -> Callable[[int, Pair], Pair]:
    """Make images of red, green and blue; blue is `value` in those of `numbers`."""

    def change(number: int, pair: Pair) -> Pair:
        blue = np.full_like(pair[0], value) if number in numbers and value is not None else 255 - pair[0]
        return np.stack([pair[0], pair[0] // 2, blue], axis=-1), pair[1]

    return change


def write_colored(folder: Path, change: Callable[[int, Pair], Pair]) -> Path:
    for number in range(COUNT):
        image, mask = change(number, nuclei(number))
        for role, array in (("images", image), ("masks", mask)):
            (folder / role).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(folder / role / f"cell{number}.png")
    return folder


def test_a_channel_that_is_constant_in_all_images_is_kept(tmp_path: Path) -> None:
    report = check([write_colored(tmp_path, colored(0, *range(COUNT)))])
    assert [f.line() for f in report.issues] == [
        "channel 3 has the same value everywhere in all images; this does no harm"
    ]
    assert report.rules.channels == 3


def test_a_channel_that_is_constant_in_some_images_is_named(tmp_path: Path) -> None:
    report = check([write_colored(tmp_path, colored(0, 2))])
    assert details(report, "channel-empty") == {"cell2": "channel 3"}
    assert not check([write_colored(tmp_path / "clean", colored(None))]).issues
