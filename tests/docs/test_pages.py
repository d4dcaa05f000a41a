"""The commands that the tutorials show run from a fresh clone and print the lines that the pages show."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs"))

from pages import Step, renewed, rewritten, run, steps_of, words  # noqa: E402 -- a script beside the pages

PAGE = """
```
$ echo 1 image, 2.5 s; echo more; echo 3 min 4 s left
9 cells, 12 s
...
```

```python
print("from Python", 7)
```

```
$ sleep 60 &
$ echo 5 \\
    objects
4 objects
```
"""


def test_a_page_is_run_in_order_and_its_numbers_are_renewed(tmp_path: Path) -> None:
    steps = steps_of(PAGE.replace("9 cells", "9 images"))
    run(steps, tmp_path, most_s=30)  # the process in the background ends with the page
    assert [step.printed for step in steps] == [
        ["1 image, 2.5 s", "more", "3 min 4 s left"],
        ["from Python 7"],
        [],
        ["5 objects"],
    ]
    new = rewritten(PAGE, steps)
    assert "\n1 image, 2.5 s\n...\n```" in new
    assert "objects\n5 objects\n```" in new
    assert 'print("from Python", 7)' in new


def test_a_line_with_other_words_is_out_of_date(tmp_path: Path) -> None:
    steps = steps_of(PAGE)
    run(steps, tmp_path, most_s=30)
    assert [renewed(step)[1] for step in steps] == [["9 cells, 12 s"], [], [], []]


def test_a_command_that_fails_ends_the_page_with_what_it_printed(tmp_path: Path) -> None:
    steps = [Step("echo reason; false", python=False), Step("touch later", python=False)]
    with pytest.raises(RuntimeError, match="reason"):
        run(steps, tmp_path)
    assert not (tmp_path / "later").exists()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("SEG 0.880, 4 min 58 s", "SEG 0.91, 2.0 s"),
        ("at most 529 MB", "at most 1.2 GB"),
        ("a  b 1", "a b 22"),
        ("1 step, 2 threads", "9 steps, 1 thread"),
    ],
)
def test_numbers_and_their_units_do_not_count(one: str, other: str) -> None:
    assert words(one) == words(other)


def test_numbers_in_names_count() -> None:
    assert words("a-01.png: 3 cells") != words("a-02.png: 3 cells")
    assert words("AP50 0.1") != words("AP75 0.1")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["first-model", "membranes", "cluster-job"])
def test_the_commands_of_a_tutorial_run_and_print_what_it_shows(name: str, tmp_path: Path) -> None:
    steps = steps_of((ROOT / "docs" / "tutorials" / f"{name}.md").read_text(encoding="utf-8"))
    run(steps, tmp_path)
    assert [line for step in steps for line in renewed(step)[1]] == []
