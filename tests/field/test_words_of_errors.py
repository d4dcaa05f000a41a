"""Messages are true and help: an option exists where it is offered, advice works, texts do not change between runs."""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from PIL import Image
from typer.core import TyperGroup

import septum
from septum.check.check import ISSUE_KINDS
from septum.check.issues import distinct_names
from septum.cli.main import COMMANDS
from septum.errors import DataError, SeptumError
from septum.pairing.find import find_pairs
from septum.words import join_words, list_some, pluralize, reason_of

SOURCE = Path(septum.__file__).parent

# The commands that run the code of a room or of a file, so that its messages may name their options.
COMMANDS_OF = {
    "check": ("train",),  # whose data is checked too: there `septum check DATA --fix OUT` is written out
    "check/repair.py": ("check",),
    "pairing": ("train",),
    "training": ("train",),
    "experiments": ("experiment seeds", "train"),
    "prediction": ("predict",),
    "evaluation": ("evaluate",),
    "review": ("review", "suggest"),
    "review/settings.py": ("review", "suggest", "train"),  # whose runs the help describes
    "export": ("predict", "convert", "export"),
    "convert": ("convert",),
    "reproduce": ("reproduce",),
    "studio": ("studio",),
    "studio/settings.py": ("studio", "train", "predict"),  # whose options the page shows as fields
    "demo": ("demo",),
    "io": ("predict", "train", "evaluate"),
}


def options() -> dict[str, set[str]]:
    """Return the options of each command, by its name."""
    found: dict[str, set[str]] = {}
    for name in COMMANDS:
        command = import_module(f"septum.cli.{name}").command
        inside = command.commands if isinstance(command, TyperGroup) else {"": command}
        for inner, one in inside.items():
            found[f"{name} {inner}".strip()] = {flag for p in one.params for flag in p.opts} | {"--help"}
    return found


def texts() -> Iterator[tuple[Path, int, str]]:
    """Yield each text of the source that is no docstring, f-strings whole, with its file and line."""
    for path in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        apart = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
        apart |= {id(v) for n in ast.walk(tree) if isinstance(n, ast.JoinedStr) for v in n.values}
        for node in ast.walk(tree):
            if id(node) in apart:
                continue
            if isinstance(node, ast.JoinedStr):
                parts = (str(v.value) if isinstance(v, ast.Constant) else "X" for v in node.values)
                yield path.relative_to(SOURCE), node.lineno, "".join(parts)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield path.relative_to(SOURCE), node.lineno, node.value


def test_every_option_in_a_message_exists_in_a_command_that_shows_it() -> None:
    known = options()
    everywhere = set().union(*known.values()) | {"--version"}
    wrong, count = [], 0
    for path, line, text in texts():
        own = COMMANDS_OF.get(path.as_posix(), COMMANDS_OF.get(path.parts[0]))
        allowed = set().union(*(known[name] for name in own)) if own else everywhere
        for command in COMMANDS:  # a message that names a command may name its options
            if re.search(rf"\b(?:septum )?{command}\b", text):
                allowed |= set().union(*(flags for name, flags in known.items() if name.split()[0] == command))
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", text):
            count += 1
            if option not in allowed:
                wrong.append(f"{path}:{line}: {option} in {text!r}")
    assert count > 100
    assert not wrong, "\n".join(wrong)


ERRORS = {name for name, kind in vars(septum.errors).items() if isinstance(kind, type) and name.endswith("Error")}


def test_every_error_says_what_was_given_what_was_expected_and_what_to_do_next() -> None:
    count = 0
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ERRORS:
                said = [a for a in node.args if not (isinstance(a, ast.Constant) and not a.value)]
                # The expected values of an option are all that there is to say about a wrong one.
                of_option = path.relative_to(SOURCE).as_posix() in ("api.py", "cli/options.py") and len(said) == 2
                assert len(said) == 3 or of_option, f"{path}:{node.lineno}"
                count += 1
    assert count > 300


def save(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8)).save(path)


def test_advice_on_two_formats_in_a_folder_can_be_followed(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(tmp_path / f"{name}.jpg")
        save(tmp_path / f"{name}.png")
    with pytest.raises(DataError) as caught:
        find_pairs([tmp_path])
    found = re.fullmatch(
        r"if the (\S+) files are the masks: move them to (\S+), and the (\S+) files to (\S+)", caught.value.todo
    )
    assert found is not None
    for suffix, folder in (found.groups()[:2], found.groups()[2:]):
        Path(folder).mkdir()
        for path in tmp_path.glob(f"*{suffix}"):
            shutil.move(path, folder)
    assert len(find_pairs([tmp_path]).pairs) == 2


def test_images_beside_a_folder_of_masks_are_not_called_images_without_masks(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    save(tmp_path / "masks/a.png")
    with pytest.raises(DataError) as caught:
        find_pairs([tmp_path])
    assert caught.value.given == f"{tmp_path}: 1 image beside the folder masks"
    assert caught.value.todo == f"name both: {tmp_path} {tmp_path / 'masks'}"
    assert len(find_pairs([tmp_path, tmp_path / "masks"]).pairs) == 1


def test_the_first_of_several_conflicts_is_named_whatever_the_order_of_a_set(tmp_path: Path) -> None:
    for n in range(30):
        for name in (f"images/cell{n}.png", f"masks/cell{n}_mask.png", f"masks/cell{n}_label.png"):
            save(tmp_path / name)
    with pytest.raises(DataError) as caught:
        find_pairs([tmp_path])
    assert caught.value.given.startswith("2 masks fit the image cell0.png: cell0_label.png and cell0_mask.png")


@pytest.mark.parametrize(
    ("names", "given"),
    [
        (("images/a.png", "masks/b.png"), "no mask fits an image by name: images a.png; masks b.png"),
        (("a_mask.png",), "{}: 1 mask by name, but no image"),
        (("a_mask.png", "b_mask.png"), "{}: 2 masks by name, but no image"),
        (("a.jpg", "a.png"), "{}: 1 name as .jpg and .png (a.jpg, a.png)"),
        (
            ("images/a.png", "imgs/a.png", "masks/a.png"),
            "{}: several folders of images, by their names: images and imgs",
        ),
    ],
)
def test_words_fit_one_and_many(tmp_path: Path, names: tuple[str, ...], given: str) -> None:
    for name in names:
        save(tmp_path / name)
    with pytest.raises(SeptumError) as caught:
        find_pairs([tmp_path])
    assert caught.value.given == given.format(tmp_path)


def test_numbers_and_lists_in_words() -> None:
    assert [pluralize(n, "process") for n in (0, 1, 2)] == ["0 processes", "1 process", "2 processes"]
    assert [pluralize(n, "image") for n in (1, 3)] == ["1 image", "3 images"]
    assert list_some("abc", 2) == "a, b ..." and list_some("ab", 2) == "a, b"
    assert [join_words("abc"[:n]) for n in (1, 2, 3)] == ["a", "a and b", "a, b and c"]


def test_findings_fit_one_file_and_many() -> None:
    for kind in ISSUE_KINDS.values():
        if kind.noun:
            words = f"{kind.mend} {kind.fix} {kind.todo}"
            assert not re.search(r"\bthem\b|\b(?:export|draw|give|invert) it\b|\btheir images?\b", words), kind.code


def test_files_of_one_name_are_told_apart() -> None:
    several = [Path("d/p1/images/a.png"), Path("d/p2/images/a.png")]
    assert distinct_names(several) == ["p1/images/a.png", "p2/images/a.png"]
    assert distinct_names([several[0], Path("d/b.png")]) == ["a.png", "b.png"]
    assert distinct_names([several[0], several[0]]) == ["a.png", "a.png"]
    assert distinct_names([]) == [] and distinct_names(several[:1], least=2) == ["images/a.png"]


def test_reasons_of_libraries_hold_no_places_in_memory() -> None:
    error = ValueError(f"cannot identify\n  image file {object()!r}")
    assert reason_of(error) == "cannot identify image file <object object>"
    assert reason_of(KeyboardInterrupt()) == "KeyboardInterrupt"
    assert reason_of("x" * 300) == "x" * 200
