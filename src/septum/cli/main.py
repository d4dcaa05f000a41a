"""The command ``septum``: flags become settings, events become progress, results become lines or one JSON document.

A command is imported when it is called, and its settings import nothing heavy, so that ``septum --help`` answers at
once. Exit codes: 0 done, 1 some inputs failed, 2 usage or data error, 130 stopped with Ctrl-C.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer

from septum.cli.usage import Group
from septum.errors import SeptumError
from septum.version import __version__

COMMANDS = {
    "demo": "Train, predict and evaluate on made images of cells.",
    "studio": "Paint a few cells in the browser while a model learns.",
    "check": "Find what is wrong with images and masks, and repair it.",
    "train": "Train a model on annotated images.",
    "predict": "Segment images of any size with a trained model.",
    "evaluate": "Score predictions against the truth.",
    "convert": "Write masks or objects in another form.",
    "suggest": "Name the images to annotate next.",
    "review": "Name annotations that are probably wrong.",
    "experiment": "Train several times: seeds, or a learning curve.",
    "export": "Write a model for other programs: ONNX, bioimage.io.",
    "info": "Show what a model is, or what this computer offers.",
    "fetch": "Download a public data set.",
    "reproduce": "Reproduce a result of the U-Net paper of 2015.",
}


class Commands(Group):
    """The commands; each lives in a module of its name, as ``command``."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all commands, in the order in which a person needs them."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import a command; None if there is none of this name."""
        if cmd_name not in COMMANDS:
            return None
        found = import_module(f"septum.cli.{cmd_name}").command
        found.name = cmd_name
        return found

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


app = typer.Typer(
    cls=Commands,
    name="septum",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit code; what a user can cause is printed without a traceback."""
    # Threads that wait for each other spin; on a machine with other work they would take its time for up to 14 times
    # longer steps. So short a spin costs nothing on an idle one. Read when PyTorch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file name may hold bytes that the terminal cannot show
    try:
        app(args=arguments, prog_name="septum")
    except SeptumError as error:
        typer.echo(f"error: {error}", err=True)
        _leave(2)
    except SystemExit as left:
        _leave(left.code if isinstance(left.code, int) else int(left.code is not None))
    except BrokenPipeError:  # the reader (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except OSError as error:
        typer.echo(f"error: {error.filename or 'file'}: {error.strerror or error}", err=True)
        raise SystemExit(2) from None


def command() -> None:
    """Be the program ``septum``: `main` in a process of its own, begun and left quickly.

    While modules are loaded, Python would look through all of them for garbage again and again, and at the end it would
    take them apart one by one: 0.6 s with PyTorch (``benchmarks/startup.py``).
    """
    gc.set_threshold(50_000, 20, 100)
    try:
        main()
    except SystemExit as left:
        atexit._run_exitfuncs()
        _leave_at_once(left.code if isinstance(left.code, int) else int(left.code is not None))


def _leave(code: int) -> NoReturn:
    """Leave with an exit code; at once where other processes of a training are gone, for whom a thread still waits."""
    parallel = sys.modules.get("septum.training.distributed")
    if parallel is not None and parallel.left_collective():
        _leave_at_once(code)
    raise SystemExit(code) from None


def _leave_at_once(code: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:  # a caller may have closed it
                stream.flush()
        except BrokenPipeError:  # the reader has seen enough
            continue
        except OSError as error:
            code = code or 2
            with suppress(OSError):
                os.write(2, f"error: the output: {error.strerror or error}\n".encode())
    os._exit(code)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"septum {__version__}")
        raise typer.Exit


@app.callback()
def septum(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Find cells and other objects in microscope images, with a U-Net trained on your own examples."""
