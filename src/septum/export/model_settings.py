"""The settings of ``septum export``; each field with an `Option` is an option of the command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import model_validator

from septum.errors import UsageError
from septum.settings import Option, Settings

# This module is read for the help text of the command: it imports neither torch nor numpy.

Target = Literal["onnx", "bioimageio"]

SUFFIX: dict[Target, str] = {"onnx": ".onnx", "bioimageio": ".zip"}
PACKAGE = "bioimage.io package"


class ExportSettings(Settings):
    """A model to export, and the file for another program.

    Parameters
    ----------
    model
        A model file, a run folder or a name; see `septum.prediction.model.model_file`.
    to
        ``"onnx"``: one ONNX file. ``"bioimageio"``: a bioimage.io package, which holds an ONNX file.
    out
        The file to write; None: the name of the model in the present folder.
    license
        SPDX identifier of the licence of a package. There is no default: only the author can choose it.
    author
        Names of the authors of a package.
    sample
        An image for which the model was made: the test input and the cover of a package; None: the noise of the
        model's own test pair.
    """

    model: Annotated[
        Path,
        Option(
            help="Model file, run folder, or name of a model that comes with Septum.", metavar="MODEL", argument=True
        ),
    ]
    to: Annotated[Target, Option(help="Write an ONNX file, or a bioimage.io package.")]
    out: Annotated[
        Path | None,
        Option(help="The file to write.", flags=("--out", "-o"), metavar="FILE", default="named after the model"),
    ] = None
    license: Annotated[
        str | None,
        Option(help="License of the package: CC-BY-4.0 or MIT", heading=PACKAGE, metavar="SPDX"),
    ] = None
    author: Annotated[
        tuple[str, ...], Option(help="Author of the package (repeatable).", heading=PACKAGE, metavar="NAME")
    ] = ()
    sample: Annotated[
        Path | None,
        Option(
            help="Image for the test and the cover of the package.",
            heading=PACKAGE,
            metavar="IMAGE",
            default="noise",
        ),
    ] = None

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        suffix = SUFFIX[self.to]
        if self.out is not None and self.out.suffix.lower() != suffix:
            raise UsageError(
                f"-o {self.out} with --to {self.to}", f"a name that ends in {suffix}", "give -o such a name"
            )
        package = {"--license": self.license, "--author": self.author, "--sample": self.sample}
        if self.to == "onnx" and (given := [name for name, value in package.items() if value]):
            raise UsageError(f"{given[0]} with --to onnx", "options of a package", "leave it out, or --to bioimageio")
        if self.to == "bioimageio" and not self.license:
            raise UsageError(
                "a bioimage.io package without a license",
                "the license under which others may use the model",
                "state it with --license, such as CC-BY-4.0 or MIT; the terms of the training images may limit it",
            )
        return self
