"""An image and its truth, as files: the result of pairing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from septum.io.nnunet import DatasetNotes
from septum.pairing.foreign import ForeignFile


@dataclass(frozen=True)
class Pair:
    """An image and its truth.

    Attributes
    ----------
    name
        Unique among the pairs; for reports and outputs.
    image
        The image file.
    mask
        The truth to train on: a file, a folder of masks of single objects, or the place of drawn objects
        (`septum.io.annotations.formats`); None if the image is not annotated, or another pair of the same image holds
        the mask.
    gold
        The truth to score with where it differs from `mask`; None otherwise.
    gold_slice
        `gold` is this Z slice of a 3D image. If `mask` is the same file, so is the mask.
    group
        Images of one sequence, stack or folder of sections share a group; ``""`` is an image on its own.
    position
        Frame or section number in the group.
    field
        Mask of the field of view: 0 outside of it; None if there is none.
    """

    name: str
    image: Path
    mask: Path | None
    gold: Path | None = None
    gold_slice: int | None = None
    group: str = ""
    position: int = 0
    field: Path | None = None


@dataclass(frozen=True)
class Pairing:
    """All pairs of a data set.

    Attributes
    ----------
    pairs
        In natural order of their names.
    layout
        Arrangement of the files: ``"folders"``, ``"stacks"`` (two files), ``"ctc"``, ``"files"`` (distinguished by
        suffix), ``"objects"`` (a folder for each image, with one mask file for each object; `Pair.mask` is the folder
        of them), or ``"drawn"`` (images with files of drawn objects, no mask images).
    unmatched_images, unmatched_masks
        Files without a partner, in natural order. Frames of a Cell Tracking Challenge sequence that are not annotated
        are pairs without a mask instead, since most of them never are.
    objects
        True where the layout proves that masks hold object ids, False for classes; None where it proves nothing.
    unread
        Images of formats that are not read, in the folders of images and of masks.
    notes
        Facts of the ``dataset.json`` of nnU-Net or the Medical Segmentation Decathlon; None if there is none.
    set_aside
        Files that are not used, with the reason: masks of a ``"second annotator"``, of the ``"field of view"`` of no
        image, ``"drawn objects"`` of an image that has a mask, or images in a ``"subfolder"`` beside images directly in
        the folder.
    """

    pairs: tuple[Pair, ...]
    layout: Literal["folders", "stacks", "ctc", "files", "objects", "drawn"]
    unmatched_images: tuple[Path, ...] = ()
    unmatched_masks: tuple[Path, ...] = ()
    objects: bool | None = None
    set_aside: tuple[tuple[Path, str], ...] = ()
    unread: tuple[ForeignFile, ...] = ()
    notes: DatasetNotes | None = None
