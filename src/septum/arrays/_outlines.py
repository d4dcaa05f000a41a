"""Compiled loops of `septum.arrays.instances` for outlines: division of gaps, teeth at contacts, surroundings of holes.

Arrays are ``(Z, Y, X)``; an image is one slice, of which the Z axis is not looked at (`first` is 1). Import this module
only where it is used: numba takes half a second, and the first use on a machine compiles.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.jit import lazy_jit


@lazy_jit
def face_neighbor(labels: NDArray[Any], z: int, y: int, x: int, step: int) -> Any:
    """Return the value of face neighbor 0 .. 5 (before and after along Z, Y, X), -1 beyond the array.

    Parameters
    ----------
    labels
        ``(Z, Y, X)`` integers, 0 or more.
    z, y, x
        A pixel.
    step
        Number of the neighbor.
    """
    axis, move = step // 2, 2 * (step % 2) - 1
    if axis == 0:
        z += move
    elif axis == 1:
        y += move
    else:
        x += move
    depth, height, width = labels.shape
    if z < 0 or y < 0 or x < 0 or z == depth or y == height or x == width:
        return -1
    return labels[z, y, x]


@lazy_jit
def support(
    labels: NDArray[Any], values: NDArray[np.uint16], z: int, y: int, x: int, label: int, reach: tuple[int, ...]
) -> Any:
    """Add up the values of the pixels of one object in the window around a pixel.

    Parameters
    ----------
    labels, values
        ``(Z, Y, X)`` object ids, and uint16 probabilities of `septum.arrays.instances.quantize`.
    z, y, x
        The pixel.
    label
        The object.
    reach
        Pixels on each side of the pixel that belong to the window, for each axis.
    """
    depth, height, width = labels.shape
    total = np.int64(0)
    for k in range(max(0, z - reach[0]), min(depth, z + reach[0] + 1)):
        for j in range(max(0, y - reach[1]), min(height, y + reach[1] + 1)):
            for i in range(max(0, x - reach[2]), min(width, x + reach[2] + 1)):
                if labels[k, j, i] == label:
                    total += np.int64(values[k, j, i])
    return total


@lazy_jit
def divide_gaps(
    labels: NDArray[Any],
    values: NDArray[np.uint16],
    open_pixels: NDArray[np.int64],
    reach: tuple[int, ...],
    steps: int,
) -> None:
    """Assign gap pixels to the objects beside them, one layer from all sides at each step.

    A pixel joins the object, among those of its face neighbors, that has the largest `support`; in a tie the higher
    label. All pixels of a layer see the labels before the step.

    Parameters
    ----------
    labels, values
        ``(Z, Y, X)`` object ids, which are changed, and uint16 probabilities.
    open_pixels
        ``(N,)`` int64: flat indices of the gap pixels.
    reach
        For each axis 1 if the gap is closed along it, otherwise 0.
    steps
        Number of layers.
    """
    flat, (_, height, width) = labels.ravel(), labels.shape
    chosen = np.zeros(len(open_pixels), labels.dtype)
    count = len(open_pixels)
    for _ in range(steps):
        for n in range(count):
            p = open_pixels[n]
            z, y, x = p // (height * width), p // width % height, p % width
            best, most = 0, -1
            for step in range(6):
                label = face_neighbor(labels, z, y, x, step) if reach[step // 2] > 0 else 0
                if label > 0:
                    own = support(labels, values, z, y, x, label, reach)
                    if own > most or (own == most and label > best):
                        best, most = label, own
            chosen[n] = best
        left = 0
        for n in range(count):
            flat[open_pixels[n]] = chosen[n]
            if chosen[n] == 0:
                open_pixels[left] = open_pixels[n]
                left += 1
        if left == count:
            break
        count = left


@lazy_jit
def straight_label(labels: NDArray[Any], filled: NDArray[Any], z: int, y: int, x: int, first: int) -> Any:
    """Return the label of a pixel after `trim_teeth` has looked at it once.

    `labels` are ``(Z, Y, X)`` integer ids and `filled` ``(Z, Y, X)`` uint8 of 0 and 1, as there.
    """
    own = labels[z, y, x]
    same, rooted, beyond, empty = 0, 0, 0, 0
    for step in range(2 * first, 6):
        label = face_neighbor(labels, z, y, x, step)
        same += label == own
        rooted += label == own and face_neighbor(filled, z, y, x, step) == 0
        beyond += label < 0
        empty += label == 0
    if same + beyond > 1:
        return own
    best, most = own, 1
    if rooted == 1 or filled[z, y, x] == 1:
        for step in range(2 * first, 6):
            label = face_neighbor(labels, z, y, x, step)
            if label <= 0 or label == own:
                continue
            faces = 0
            for other in range(2 * first, 6):
                faces += face_neighbor(labels, z, y, x, other) == label
            if faces > most or (faces == most and faces > 1 and label > best):
                best, most = label, faces
    if best == own and filled[z, y, x] == 1 and empty > 1:
        return 0
    return best


@lazy_jit
def trim_teeth(labels: NDArray[Any], filled: NDArray[np.uint8], parity: int, first: int, rounds: int) -> None:
    """Remove teeth of one pixel where objects touch.

    A tooth is a pixel with one face neighbor of its own object at most, where neighbors beyond the image count as its
    own. It goes to the object that has the most of its face neighbors, two or more (of several, to the highest label);
    otherwise, if it lies in a closed gap and two face neighbors are background, it becomes background again. Outside of
    closed gaps a pixel is a tooth only if that neighbor lies outside of closed gaps as well: no object vanishes. Pixels
    of even and odd coordinate sums take turns: a pixel and its face neighbors are never changed at once, so that each
    object remains connected.

    Parameters
    ----------
    labels
        ``(Z, Y, X)`` integers: object ids, 0 background; changed.
    filled
        ``(Z, Y, X)`` uint8, 0 .. 1: 1 in gaps that were closed.
    parity
        Sum of the coordinates of the first pixel in the image.
    first
        First axis that counts: 1 for images, 0 for volumes.
    rounds
        Number of times that each pixel is looked at.
    """
    depth, height, width = labels.shape
    for turn in range(2 * rounds):
        for z in range(depth):
            for y in range(height):
                for x in range((z + y + parity + turn) % 2, width, 2):
                    if labels[z, y, x] > 0:
                        labels[z, y, x] = straight_label(labels, filled, z, y, x, first)


@lazy_jit
def labels_around(
    ringed: NDArray[Any], basins: NDArray[np.int32], cluster: NDArray[np.int32], ring: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find the lowest and the highest label at the faces of each cluster of background pixels.

    Parameters
    ----------
    ringed
        ``(Z, Y + 2, X + 2)`` integer labels with a ring of one pixel, also along Z if `ring` is 1; 0 background, -1
        beyond the image.
    basins, cluster
        ``(Z, Y, X)`` int32 and ``(N + 1,)`` int32 index of `septum.arrays.watershed.Flooded`, of the background.
    ring
        1 for volumes, 0 for images.

    Returns
    -------
    lowest, highest
        ``(N + 1,)`` int64, for the basins that represent clusters: labels, -1 beyond the image; the highest and lowest
        int64 of a cluster without any.
    """
    limits = np.iinfo(np.int64)
    lowest, highest = np.full(len(cluster), limits.max), np.full(len(cluster), limits.min)
    depth, height, width = basins.shape
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                if basins[z, y, x] == 0:
                    continue
                node = cluster[basins[z, y, x]]
                for step in range(2 - 2 * ring, 6):
                    label = face_neighbor(ringed, z + ring, y + 1, x + 1, step)
                    if label != 0:
                        lowest[node], highest[node] = min(lowest[node], label), max(highest[node], label)
    return lowest, highest
