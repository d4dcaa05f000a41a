"""The settings of a prediction; each field with an `Option` is an option of ``septum predict``."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from septum.errors import UsageError
from septum.io.formats import RESULT_SUFFIXES, result_suffix
from septum.prediction.memory import parse_bytes
from septum.settings import AXES, CHANNEL, DEVICE, LEVEL, PIXEL_SIZE, Level, Option, PixelSize, Settings

# This module is read for the help text of the command: it imports neither torch nor anything that does.

Output = Literal["labels", "classes", "probabilities"]
Backend = Literal["auto", "torch", "septum"]

RESULTS, SCALE, MEMORY, CLUSTER = "Results", "Scale", "Memory and speed", "Cluster"

SMALLEST_SCALE, LARGEST_SCALE = 1 / 64, 64


def unknown_output(output: str) -> UsageError:
    """Return the error for an unknown kind of output."""
    words = ", ".join(get_args(Output))
    return UsageError(f"--output {output}", f"one of {words}", "leave it out for what the training masks held")


def parse_shard(text: str) -> tuple[int, int]:
    """Return the two numbers of a part such as ``3/8``.

    Raises
    ------
    UsageError
        If `text` is not two numbers with a slash between them.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None:
        raise UsageError(f"--shard {text}", "part I of N, such as 3/8", "count the parts from 1")
    return int(match[1]), int(match[2])


def format_shard(shard: tuple[int, int]) -> str:
    """Return a part as it is written on the command line: ``"3/8"``."""
    return f"{shard[0]}/{shard[1]}"


def parse_workers(text: str) -> int | str:
    """Return a number of processes as an integer; the address of a scheduler as it is."""
    return int(text) if re.fullmatch(r"-?\d+", text) else text


def parse_scale(text: str) -> float | Literal["auto"]:
    """Return a scale: ``"auto"``, or a factor such as ``0.25``; other texts are judged by `check_scale`.

    Raises
    ------
    UsageError
        If `text` is neither.
    """
    try:
        return "auto" if text == "auto" else float(text)
    except ValueError:
        raise _wrong_scale(text) from None


def parse_object_size(text: str) -> float:
    """Return the width of objects in pixels.

    Raises
    ------
    UsageError
        If `text` is not a number.
    """
    try:
        return float(text)
    except ValueError:
        raise _wrong_width(text) from None


def check_scale(scale: float | str, object_size: float | None) -> float | Literal["auto"]:
    """Return the scale if it and the width of objects can be used.

    Raises
    ------
    UsageError
        If one of them is out of range, or both are given.
    """
    if object_size is not None and not 0 < object_size < float("inf"):
        raise _wrong_width(f"{object_size:g}")
    if isinstance(scale, str):
        if scale != "auto":
            raise _wrong_scale(scale)
        return "auto"
    if not SMALLEST_SCALE <= scale <= LARGEST_SCALE:
        raise _wrong_scale(f"{scale:g}")
    if object_size is not None:
        raise UsageError(f"--object-size {object_size:g} and --scale {scale:g}", "one of them", "leave the other out")
    return scale


def _wrong_scale(given: str) -> UsageError:
    return UsageError(
        f"--scale {given}",
        "auto, or a factor of 1/64 to 64",
        "write --scale 0.5 for an image whose objects are twice as wide as those of the training",
    )


def _wrong_width(given: str) -> UsageError:
    return UsageError(
        f"--object-size {given}", "a width in pixels, above 0", "measure some objects, and write their width"
    )


class PredictSettings(Settings):
    """Images to predict, and how.

    Parameters
    ----------
    model
        A model file, a run folder or a name; see `septum.prediction.model.model_file`.
    inputs
        Files, folders or patterns.
    out
        Folder for the results; created if missing. Exactly one of `out` and `label_image` is given.
    label_image
        Name of the label image to write into each input, which must be an OME-Zarr 0.5 image.
    output
        ``"labels"``: object ids. ``"classes"``: the most probable class of each pixel, by its value in the training
        masks. ``"probabilities"``: float32 maps, one (of the object or second class) for two classes, else one for
        each class. None: the kind of the training masks, labels or classes.
    skip_existing
        Leave out images whose result exists and is not older than the image, the model and the mask of the region. A
        label image inside an image is compared with the model and the mask only.
    tta
        Average over rotated and mirrored versions (test-time augmentation): about eight times the work.
    scale
        Factor by which images are resized before the network sees them, so that their objects are as wide as those of
        the training images; the result is on the image's own grid. ``"auto"``: found for each image, see
        `septum.prediction.scale`.
    object_size
        Width of the objects in the images, in pixels: the scale follows from the width of the training objects.
    region
        A mask, 0 outside: only there the images are predicted, the rest is background. A file for one image, or a
        folder of masks that are named as the images.
    axes
        Axes of the image files, for files that do not state their axes or state wrong ones.
    channel
        Channels of the image files to read, by number from 1 or by name; empty: all, or those of the training where
        only they fit the model.
    level, pixel_size
        Level of slides and other pyramids, from 0, or micrometers per pixel of the level; both None: as in training,
        else the largest. The result has the size of the level.
    device
        See `septum.nn.device.find_device`.
    engine
        Code that computes the network on a CPU: ``"septum"``, ``"torch"`` or by the rule of `septum.prediction.backend`
        (``"auto"``).
    tile
        Largest side that a tile writes, in pixels; None: chosen by the memory.
    format
        Format of the results; None: that of the input, with PNG instead of lossy formats.
    max_memory
        Memory in bytes that this process may hold; None: most of the free memory. Images that do not fit are predicted
        block by block.
    in_blocks
        Predict block by block even if the image fits into memory: a prediction that is stopped can be resumed.
    workers
        Number of local processes that share the work, or the address of a Dask scheduler whose workers share it; None:
        this process alone.
    shard
        ``(i, n)``: compute part `i` of `n` only, from 1 to n; a later run without it computes the rest and joins all.
    """

    model: Annotated[
        Path,
        Option(
            help="Model file, run folder, or name of a model that comes with Septum.", metavar="MODEL", argument=True
        ),
    ]
    inputs: Annotated[
        tuple[str, ...],
        Option(help="Images, folders of images, or patterns ('*.tif').", metavar="INPUT", argument=True),
    ]
    out: Annotated[
        Path | None, Option(help="Folder for the results.", heading=RESULTS, flags=("--out", "-o"), metavar="OUT")
    ] = None
    output: Annotated[
        Output | None,
        Option(
            help="Write numbered objects, the class of each pixel, or the probability of each class (0 to 1).",
            heading=RESULTS,
            default="as the training masks",
        ),
    ] = None
    format: Annotated[
        str | None,
        Option(
            help=f"File format of the results: {', '.join(suffix[1:] for suffix in RESULT_SUFFIXES)}.",
            heading=RESULTS,
            metavar="FORMAT",
            default="as the input",
        ),
    ] = None
    label_image: Annotated[
        str | None,
        Option(
            help="Instead of -o: write a label image of this name into each input, an OME-Zarr image.",
            heading=RESULTS,
            metavar="NAME",
        ),
    ] = None
    skip_existing: Annotated[
        bool,
        Option(help="Leave out images that have a result, unless the image or the model is newer.", heading=RESULTS),
    ] = False
    tta: Annotated[
        bool, Option(help="Average over rotated and mirrored versions: slower, slightly better.", heading=RESULTS)
    ] = False
    scale: Annotated[
        float | Literal["auto"],
        Option(
            help="Factor by which images are resized for the network; results keep the size of the image.",
            heading=SCALE,
            metavar="auto|FACTOR",
            default="found by the width of objects",
            parse=parse_scale,
        ),
    ] = "auto"
    object_size: Annotated[
        float | None,
        Option(
            help="Width of the objects in these images, in pixels: gives the factor.",
            heading=SCALE,
            metavar="PX",
            parse=parse_object_size,
        ),
    ] = None
    region: Annotated[
        Path | None,
        Option(
            help="Predict only inside this mask: a file, or a folder of masks named as the images.",
            heading="Input",
            flags=("--in",),
            metavar="MASK",
            default="everywhere",
        ),
    ] = None
    axes: Annotated[str | None, AXES] = None
    channel: Annotated[tuple[str, ...], replace(CHANNEL, default="all, or those of the training")] = ()
    level: Annotated[Level | None, replace(LEVEL, default="0, or as in the training")] = None
    pixel_size: Annotated[PixelSize | None, replace(PIXEL_SIZE, default="any, or as in the training")] = None
    max_memory: Annotated[
        Annotated[int, Field(ge=1)] | None,
        Option(
            help="Memory limit: 2G, 800M.",
            heading=MEMORY,
            metavar="SIZE",
            default="most of the free memory",
            parse=parse_bytes,
        ),
    ] = None
    device: Annotated[str, replace(DEVICE, heading=MEMORY)] = "auto"
    engine: Annotated[
        Backend,
        Option(help="Code that computes on a CPU: PyTorch, Septum's own, or by rule.", heading=MEMORY),
    ] = "auto"
    tile: Annotated[
        Annotated[int, Field(ge=1)] | None,
        Option(help="Largest side that a tile writes, in pixels.", heading=MEMORY, metavar="N", default="planned"),
    ] = None
    in_blocks: Annotated[
        bool,
        Option(
            help="Predict block by block even if the image fits into memory: a stopped prediction can be resumed.",
            heading=MEMORY,
        ),
    ] = False
    workers: Annotated[
        int | str | None,
        Option(
            help="Number of local processes that share the work, or the address of a Dask scheduler (tcp://host:8786).",
            heading=CLUSTER,
            metavar="N|ADDRESS",
            parse=parse_workers,
        ),
    ] = None
    shard: Annotated[
        tuple[int, int] | None,
        Option(
            help="Compute part I of N, in a job array; a run without it joins the parts.",
            heading=CLUSTER,
            metavar="I/N",
            parse=parse_shard,
            write=format_shard,
        ),
    ] = None

    @field_validator("output", mode="before")
    @classmethod
    def _known_output(cls, output: object) -> object:
        if isinstance(output, str) and output not in get_args(Output):
            raise unknown_output(output)
        return output

    @field_validator("format")
    @classmethod
    def _known_format(cls, value: str | None) -> str | None:
        if value is not None and f".{value}" not in RESULT_SUFFIXES:
            known = ", ".join(suffix[1:] for suffix in RESULT_SUFFIXES)
            raise UsageError(f"--format {value}", f"one of {known}", "choose one of them")
        return value

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if (self.out is None) == (self.label_image is None):
            given = "neither -o nor --label-image" if self.out is None else "both -o and --label-image"
            raise UsageError(given, "one of them", "name a folder with -o, or a label image with --label-image")
        if self.label_image is not None and (self.output == "probabilities" or self.format is not None):
            option = "--output probabilities" if self.output == "probabilities" else "--format"
            raise UsageError(
                f"--label-image with {option}",
                "objects or classes, written as OME-Zarr",
                f"leave {option} out, or give -o",
            )
        if self.output == "probabilities" and self.format is not None:
            floats = [suffix[1:] for suffix in RESULT_SUFFIXES if result_suffix(suffix, floats=True) == suffix]
            if self.format not in floats:
                given = f"--output probabilities with --format {self.format}"
                raise UsageError(
                    given,
                    f"a format that holds float32: {', '.join(floats)}",
                    "choose one of them, or leave --format out",
                )
        if self.tta and self.region is not None:
            raise UsageError("--in with --tta", "one of them", "leave the other out")
        check_scale(self.scale, self.object_size)
        if isinstance(self.workers, int) and self.workers < 1:
            raise UsageError(
                f"--workers {self.workers}", "at least one process, or an address", "write a number such as --workers 4"
            )
        if self.workers is not None and self.shard is not None:
            raise UsageError("--workers and --shard", "one of them", "leave the other out")
        if self.shard is not None and not 1 <= self.shard[0] <= self.shard[1]:
            raise UsageError(f"--shard {format_shard(self.shard)}", "1/N to N/N", "count the parts from 1")
        return self
