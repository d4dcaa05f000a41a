"""What can be asked of a prediction."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator

from septum.errors import UsageError
from septum.io.formats import RESULT_SUFFIXES
from septum.predict.backend import Wanted
from septum.predict.outputs import Output
from septum.settings import Settings


class PredictSettings(Settings):
    """What to predict and how.

    Parameters
    ----------
    model
        The model file.
    inputs
        Files, folders or patterns.
    out
        Folder for the results; made if missing. Exactly one of it and `inside`.
    inside
        Name of the label image that is written into each input, an OME-Zarr 0.5 image: where viewers look for it.
    output
        ``"auto"`` writes what the training masks were: object ids, or the masks' class values. ``"labels"`` writes
        object ids,
        ``"probabilities"`` float32 maps: one (of the object or second class) for two classes, else one a class.
    tta
        Average over rotated and mirrored versions: about eight times the work.
    axes
        What the files' dimensions mean, where they do not say it themselves or say it wrongly.
    device
        See `septum.nn.device.find_device`.
    engine
        What computes on a processor: ``"septum"``, its own code; ``"torch"``, PyTorch; ``"auto"``, what is faster.
    tile
        Largest side that a tile writes, in pixels; chosen from the memory where not given.
    format
        Suffix of the results without the dot, one of `septum.io.formats.RESULT_SUFFIXES`; that of the input where not
        given, with formats that are not written replaced by PNG.
    max_memory
        The most memory in bytes that this process may hold; most of what is free where not given. Images that do not
        fit are predicted block by block.
    blocks
        Work block by block even where the image fits: a prediction that is stopped can then go on.
    workers
        Processes of this machine that share the blocks (Dask); this one alone where neither this nor `dask` is given.
    dask
        Address of a Dask scheduler whose workers share the blocks.
    shard
        ``(i, n)``: do part `i` of `n` only, 1 to n; a later start without it does what is left and puts all together.
    """

    model: Path
    inputs: tuple[str, ...]
    out: Path | None = None
    inside: str | None = None
    output: Output = "auto"
    tta: bool = False
    axes: str | None = None
    device: str = "auto"
    engine: Wanted = "auto"
    tile: int | None = Field(default=None, ge=1)
    format: str | None = None
    max_memory: int | None = Field(default=None, ge=1)
    blocks: bool = False
    workers: int | None = Field(default=None, ge=1)
    dask: str | None = None
    shard: tuple[int, int] | None = None

    @field_validator("format")
    @classmethod
    def _known_format(cls, value: str | None) -> str | None:
        if value is not None and f".{value}" not in RESULT_SUFFIXES:
            known = ", ".join(suffix[1:] for suffix in RESULT_SUFFIXES)
            raise UsageError(f"--format {value}", f"one of {known}", "choose one of them")
        return value

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.out is None) == (self.inside is None):
            given = "neither -o nor --inside" if self.out is None else "both -o and --inside"
            raise UsageError(given, "one of them", "name a folder with -o, or a label image with --inside")
        if self.inside is not None and (self.output == "probabilities" or self.format is not None):
            what = "--probabilities" if self.output == "probabilities" else "--format"
            raise UsageError(
                f"--inside with {what}", "objects or classes, written as OME-Zarr", f"leave {what} out, or give -o"
            )
        return self
