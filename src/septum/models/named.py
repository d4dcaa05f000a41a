"""Find a model that comes with Septum by its name.

::

    models/NAME.safetensors   the model, as `septum.prediction.model.save_model` writes it
    models/NAME.md            its card: purpose, training data and their terms, scores, limits
"""

from __future__ import annotations

from pathlib import Path

from septum.errors import ModelError
from septum.folders import check_spelling
from septum.settings import Settings
from septum.words import most_similar

FOLDER = Path(__file__).parent
NAMES = ("cells", "membranes", "nuclei")


class Release(Settings):
    """What a model that comes with Septum states about itself.

    Parameters
    ----------
    purpose
        Images and objects that it was made for: ``"nuclei in fluorescence microscopy"``.
    data
        Its training data, and their terms in short.
    images
        Hashes of the images that it has seen, and of others of the same sequences; see
        `septum.training.pretrained.image_hash`.
    """

    purpose: str
    data: str
    images: tuple[str, ...] = ()


def file_of(name: str) -> Path:
    """Return the file of a model."""
    return FOLDER / f"{name}.safetensors"


def name_of(file: Path) -> str | None:
    """Return the name of a model that comes with Septum; None for another file."""
    return file.stem if file.parent == FOLDER and file.stem in NAMES else None


def read_card(name: str) -> str:
    """Return the card of a model, a Markdown text."""
    return (FOLDER / f"{name}.md").read_text(encoding="utf-8")


def unknown_name(path: Path) -> ModelError:
    """Return the error for a word that names no file, no folder and no model, with the most similar name."""
    similar = most_similar(str(path), NAMES)
    return ModelError(
        f"{path}: no file, folder or model of this name",
        f"a model file, a run folder, or a model that comes with Septum: {', '.join(NAMES)}",
        f"did you mean: {similar}?" if similar else check_spelling(path),
    )
