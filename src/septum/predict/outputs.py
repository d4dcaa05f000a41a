"""What is written of the probabilities: object ids, class values, or the probabilities themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from septum.arrays.boundaries import draw_boundaries
from septum.arrays.instances import label_objects
from septum.errors import UsageError
from septum.predict.model import Model, ModelHeader

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

Output = Literal["auto", "labels", "probabilities"]
Answer = Literal["labels", "classes", "probabilities"]


def resolve_output(output: Output, model: Model) -> Answer:
    """Return what is written: where nothing is said, what the training masks were.

    Raises
    ------
    UsageError
        If object ids are asked of a model of several classes.
    """
    classes = model.header.network.classes
    if output == "labels" and classes > 2:
        raise UsageError(
            f"--labels with a model of {classes} classes",
            "a model of objects or of two classes",
            "leave --labels out to write the class of each pixel",
        )
    if output == "auto":
        return "labels" if model.header.kind == "objects" else "classes"
    return output


def makes_objects(answer: str, header: ModelHeader) -> bool:
    """Say whether objects are made of the probabilities: for their ids, or where areas are to be parted by lines."""
    return answer == "labels" or (answer == "classes" and header.lines)


def postprocess(
    probabilities: NDArray[np.float32], model: Model, answer: Answer, *, spacing: tuple[float, ...] | None = None
) -> NDArray[Any]:
    """Turn class probabilities into what is written.

    Parameters
    ----------
    probabilities
        ``(K, *S) float32``.
    model
        Says how objects are made and which value each class has.
    answer
        What is written.
    spacing
        Pixel size per axis relative to the smallest; None where unknown.

    Returns
    -------
    ndarray
        ``(1, *S)`` object ids or class values in the smallest integer type that holds them, or ``(1, *S)`` or ``(K,
        *S)`` float32 probabilities.
    """
    if answer == "probabilities":
        return probabilities[1:] if len(probabilities) == 2 else probabilities
    if answer == "labels":
        labels = label_objects(probabilities[1], model.header.objects, spacing=spacing)
        small: NDArray[Any] = labels[None].astype(smallest_integer(0, int(labels.max())))
        return small
    values: NDArray[Any] = class_table(model)[most_probable_class(probabilities, model.header, spacing=spacing)][None]
    return values


def most_probable_class(
    probabilities: NDArray[np.float32], header: ModelHeader, *, spacing: tuple[float, ...] | None = None
) -> NDArray[Any]:
    """Return the class of each pixel, ``(*S)`` in the smallest integer type: the most probable one.

    Where the classes are lines and areas, the areas are those of `septum.arrays.instances.label_objects`, and there is
    a line where two of them meet, or where the probability is not above the threshold.

    Parameters
    ----------
    probabilities
        ``(K, *S) float32``.
    header
        Of the model.
    spacing
        As for `postprocess`.
    """
    if header.lines:
        found = draw_boundaries(label_objects(probabilities[1], header.objects, spacing=spacing)) > 0
    else:
        found = probabilities.argmax(axis=0)
    return found.astype(smallest_integer(0, len(probabilities) - 1))


def class_table(model: Model) -> NDArray[Any]:
    """Return the value of each class in the training masks, in the smallest integer type that holds them."""
    values = model.header.class_values
    table: NDArray[Any] = np.asarray(values, dtype=smallest_integer(min(values), max(values)))
    return table


def smallest_integer(low: int, high: int) -> DTypeLike:
    """Return the smallest integer type that holds low..high, unsigned where it can be."""
    kinds = (np.uint8, np.uint16, np.uint32, np.uint64) if low >= 0 else (np.int8, np.int16, np.int32, np.int64)
    return next(k for k in kinds if np.iinfo(k).min <= low and high <= np.iinfo(k).max)
