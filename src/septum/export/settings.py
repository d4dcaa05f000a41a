"""Settings of results for other programs; nothing heavy is imported here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import model_validator

from septum.convert.settings import ConvertSettings
from septum.errors import UsageError
from septum.prediction.settings import RESULTS, PredictSettings
from septum.settings import Option, Settings
from septum.words import most_similar

Form = Literal["tables", "geojson", "rois", "coco", "overlay", "properties"]
FORMS: tuple[Form, ...] = get_args(Form)
LABELS = "Label images for other programs"


def parse_forms(text: str) -> tuple[Form, ...]:
    """Return the forms that a text names, separated by commas: ``"tables,geojson"``.

    Raises
    ------
    ValueError
        If a form is unknown.
    """
    words = _words(text)
    if unknown := [word for word in words if word not in FORMS]:
        similar = most_similar(unknown[0], FORMS)
        meant = f"; did you mean {similar}?" if similar else ""
        raise ValueError(f"some of {', '.join(FORMS)}, separated by commas, not {unknown[0]}{meant}")
    return tuple(form for form in FORMS if form in words)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def format_forms(forms: tuple[Form, ...]) -> str:
    """Return forms as they are written on the command line: ``"tables,geojson"``."""
    return ",".join(forms)


class PredictAndExportSettings(Settings):
    """A prediction, and what is written of its results for other programs.

    Parameters
    ----------
    prediction
        The prediction.
    also
        ``"tables"``: ``objects.csv``, and ``objects.parquet`` where pyarrow is installed; one row an object of all
        images. ``"geojson"``: regions for QuPath. ``"rois"``: regions for ImageJ. ``"coco"``: ``objects.coco.json``,
        all images. ``"overlay"``: a picture of the outlines on the image. ``"properties"``: area and class of each
        object in the OME-Zarr label image itself.
    """

    prediction: PredictSettings
    also: Annotated[
        tuple[Form, ...],
        Option(
            help=f"Write the objects for other programs as well: {', '.join(FORMS)}, separated by commas.",
            heading=RESULTS,
            metavar="FORMS",
            parse=parse_forms,
            write=format_forms,
        ),
    ] = ()

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        asked = self.prediction
        also = f"--also {format_forms(self.also)}"
        if self.also and asked.output == "probabilities":
            raise UsageError(f"{also} with --output probabilities", "objects or classes", "leave one of them out")
        if self.also and asked.skip_existing:
            todo = "leave --also out, then run: septum convert RESULTS --images IMAGES -o OUT --to "
            raise UsageError(f"{also} with --skip-existing", "all results", todo + format_forms(self.also))
        if self.also and asked.shard is not None:
            todo = "leave --also out, and give it to the run without --shard, or to septum convert"
            raise UsageError(f"{also} with --shard", "whole results", todo)
        others = tuple(form for form in self.also if form != "properties")
        if others and asked.label_image is not None:
            todo = f"septum convert IMAGE/labels/{asked.label_image} -o OUT --to {format_forms(others)}"
            raise UsageError(f"{also} with --label-image", "properties, which a label image holds", f"then run: {todo}")
        return self


Target = Literal["labels", Form]


def parse_targets(text: str) -> tuple[Target, ...]:
    """Return the forms that a text names, and ``"labels"``; see `parse_forms`."""
    words = _words(text)
    forms = parse_forms(",".join(word for word in words if word != "labels"))
    return ("labels", *forms) if "labels" in words else forms


class ConvertAndExportSettings(Settings):
    """A data set that is converted to label images, or label images that are written for other programs.

    Parameters
    ----------
    conversion
        What to convert, and where to write it.
    to
        ``("labels",)``, or forms as for `PredictAndExportSettings.also`; then `conversion.data` are label images, or a
        data set whose masks are label images.
    images
        Folder of the images of label images, or one image. The name of a label image is that of its image, or begins
        with it. Needed for intensities and pictures.
    probabilities
        The same for predicted probabilities, of which the table gets the mean in each object.
    slices
        The slices of a stack are images of their own; otherwise it is a volume.
    """

    conversion: ConvertSettings
    to: Annotated[
        tuple[Target, ...],
        Option(
            help=f"Form of the result: labels, or some of {', '.join(FORMS)}, separated by commas.",
            metavar="FORMS",
            default="labels",
            parse=parse_targets,
            write=",".join,
        ),
    ] = ("labels",)
    images: Annotated[
        Path | None,
        Option(
            help="Images of the label images: gives intensities, and the ground of pictures.",
            heading=LABELS,
            metavar="IMAGES",
        ),
    ] = None
    probabilities: Annotated[
        Path | None,
        Option(help="Predicted probabilities: gives their mean in each object.", heading=LABELS, metavar="MAPS"),
    ] = None
    slices: Annotated[
        bool, Option(help="The slices of a stack are images of their own, no volume.", heading=LABELS)
    ] = False

    @property
    def forms(self) -> tuple[Form, ...]:
        """The forms for other programs; empty: label images."""
        return tuple(form for form in FORMS if form in self.to)

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if not self.to or ("labels" in self.to and self.forms):
            todo = (
                "run the command once for labels, once for the others" if self.to else "name a form, or leave --to out"
            )
            raise UsageError(f"--to {','.join(self.to)}", f"labels, or some of {', '.join(FORMS)}", todo)
        if not self.forms:
            given = [name for name in ("images", "probabilities", "slices") if getattr(self, name)]
            if given:
                raise UsageError(f"--{given[0]} with --to labels", f"--to some of {', '.join(FORMS)}", "leave it out")
        return self
