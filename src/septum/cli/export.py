"""The command that writes a model for other programs."""

from __future__ import annotations

import typer

from septum.cli import options
from septum.cli.progress import stoppable
from septum.cli.text import json_text
from septum.export.model_settings import ExportSettings
from septum.progress import Display, Progress


def export(settings: ExportSettings, display: Display) -> None:
    """Write a model for other programs: ONNX, or a bioimage.io package.

    MODEL is a model file, the folder of a run, or a model that comes with Septum. --to onnx writes one file that
    onnxruntime runs in any language, also in a browser: intensities, network and soft-max. --to bioimageio writes a
    package with the network, a test, a cover and a description, for the programs of that community. The file is run
    and compared with the model before it gets its name. What the file does not do is printed.

    Example: septum export runs/cells --to onnx -o cells.onnx
    """
    from septum.export.model import export_model
    from septum.prediction.model import model_file, open_model

    with stoppable(lambda: "no file was left"), Progress("files", display, waiting="writing the model"):
        file = model_file(settings.model)
        done = export_model(open_model(file, "cpu"), file, settings)
    if display.json:
        typer.echo(json_text({"command": "export", "model": settings.model, "to": settings.to, "done": done}))
        return
    one = done.comparison
    tiles = ", ".join(" x ".join(map(str, sides)) for sides in one.sides)
    lines = [f"not in the file: {sentence}" for sentence in done.left_out]
    lines.append(
        f"compared with the model by onnxruntime {one.runtime} on tiles of {tiles}: the probabilities differ by at "
        f"most {one.difference:.1g}"
    )
    lines.append(f"{done.path}: {done.bytes / 1e6:.1f} MB, inputs {', '.join(done.inputs)}")
    typer.echo("\n".join(lines[-1:] if display.quiet else lines))


command = options.command(export, ExportSettings)
