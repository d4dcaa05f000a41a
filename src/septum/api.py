"""The verbs as seen from Python: arrays or paths in, a model or arrays out."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from septum.errors import DataError, UnfamiliarImageWarning, UsageError
from septum.io.image import Image
from septum.io.open import read_image
from septum.io.write import write_image
from septum.predict.domain_shift import image_warnings
from septum.predict.frames import split_frames
from septum.predict.model import Model
from septum.predict.model import open_model as open_model
from septum.predict.predict import predict_image
from septum.train.events import Stopped
from septum.train.interrupt import stop_on_signals
from septum.train.loop import train as train_run
from septum.train.settings import TrainSettings

Arrays = Sequence[NDArray[Any]] | NDArray[Any]

# What was warned of in this process: what the training images of a model were like, and the cause.
_told: set[tuple[str, str]] = set()


def train(
    images: str | Path | Arrays,
    masks: str | Path | Arrays | None = None,
    *,
    out: str | Path | None = None,
    **settings: Any,
) -> Model:
    """Train a model.

    Parameters
    ----------
    images
        A folder or stack of images; or a list of arrays ``(*S)`` or ``(C, *S)``, or one array whose first axis counts
        images.
    masks
        The same for the masks, ``(*S)`` integers, whose dimensions say what those of the images are; None where
        `images` is a folder that holds both.
    out
        Run folder, for going on after a stop; a temporary one that is removed where not given.
    **settings
        Fields of `septum.train.settings.TrainSettings`: ``steps``, ``budget_s``, ``seed``, ``preset`` ...

    Returns
    -------
    Model
        Ready for `predict`.

    Raises
    ------
    SeptumError
        See `septum.train.loop.train`.
    """
    with tempfile.TemporaryDirectory(prefix="septum-") as temporary:
        rank = None if masks is None or isinstance(masks, str | Path) or len(masks) == 0 else np.ndim(masks[0])
        data = [_as_folder(images, Path(temporary) / "images", rank)]
        if masks is not None:
            data.append(_as_folder(masks, Path(temporary) / "masks", rank))
        folder = Path(out) if out is not None else Path(temporary) / "run"
        try:
            chosen = TrainSettings(data=tuple(data), out=folder, **settings)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            fields = ", ".join(k for k in TrainSettings.model_fields if k not in ("data", "out"))
            raise UsageError(f"{name}: {first['msg']}".removeprefix(": "), f"settings out of {fields}") from None
        with stop_on_signals() as stop:
            for record in train_run(chosen, stop):
                if isinstance(record, Stopped):
                    raise KeyboardInterrupt(f"the state after step {record.step} is saved in {record.folder}")
        return open_model(folder / "model.safetensors", settings.get("device", "auto"))


def predict(model: Model | str | Path, image: str | Path | NDArray[Any], *, output: str | None = None) -> NDArray[Any]:
    """Predict one image.

    Parameters
    ----------
    model
        From `train` or `open_model`, or the path of a model file or a run folder.
    image
        A path, or an array ``(*S)`` or ``(C, *S)`` of raw intensities.
    output
        ``"labels"``: object ids; ``"classes"``: class values; ``"probabilities"``; None: what the training masks held.

    Returns
    -------
    ndarray
        ``(*S)`` integers; for probabilities float32 in 0..1: ``(*S)`` (of the object or second class) for two classes,
        ``(K, *S)`` for more. A file with T, or with Z for a model of images, gives these axes in front.

    Raises
    ------
    DataError, ModelError
        If the image's channels or dimensions do not fit the model, or a pixel is not a finite number.

    Warns
    -----
    UnfamiliarImageWarning
        If the image is unlike those of the training, for each cause once with a model (pixel size, intensities,
        contrast).
    """
    opened = model if isinstance(model, Model) else open_model(Path(model))
    if isinstance(image, str | Path):
        found = read_image(Path(image))
    else:
        axes = "CZYX" if opened.rank == 3 else "CYX"
        if image.size == 0:
            raise DataError(f"an array without pixels, {image.shape}", "at least one pixel")
        if image.ndim not in (opened.rank, opened.rank + 1):
            expected = f"{opened.rank} dimensions, or {opened.rank + 1} with channels first"
            raise DataError(f"an array of {image.ndim} dimensions", expected)
        array = image if image.ndim == opened.rank + 1 else image[None]
        found = Image.from_array(array, axes)
    for cause, text in _news(opened, found, "the image" if isinstance(image, np.ndarray) else str(image)):
        warnings.warn(text, UnfamiliarImageWarning, stacklevel=2)
        _told.add(cause)
    result = predict_image(opened, found, output=output)
    channel = found.axes.index("C")
    return result.squeeze(channel) if result.shape[channel] == 1 else result


def _news(model: Model, image: Image, name: str) -> Iterator[tuple[tuple[str, str], str]]:
    """Say in what an image is unlike those of the training, with what to remember, where it was not told before."""
    for cause, text in image_warnings(split_frames(image, model), name, image.pixel_size_um, model.header.seen):
        assert model.header.seen is not None
        if (known := (model.header.seen.model_dump_json(), cause)) not in _told:
            yield known, text


def _as_folder(data: str | Path | Arrays, folder: Path, rank: int | None) -> Path:
    """Return the path as it is; write arrays as files, so that they go the same way as a person's images.

    The files name their axes: an array alone does not say whether its first axis is color, depth or time.
    """
    if isinstance(data, str | Path):
        return Path(data)
    folder.mkdir()
    for number, array in enumerate(data):
        spatial = "ZYX"[-(rank or 2) :]
        if array.ndim not in (len(spatial), len(spatial) + 1):
            expected = f"{len(spatial)} dimensions as its mask, or {len(spatial) + 1} with channels first"
            raise DataError(f"{folder.name}: array {number} has {array.ndim} dimensions", expected)
        axes = spatial if array.ndim == len(spatial) else "C" + spatial
        write_image(folder / f"image-{number:06d}.tif", array, axes=axes)
    return folder
