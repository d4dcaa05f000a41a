"""Reference numbers of the programs that define the scores, and their images."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

SHARED = Path(__file__).parents[3] / "shared"


@dataclass(frozen=True)
class Case:
    """A stack of sections with its truth: ``(N, Y, X)`` each; `gold` is the output of the program of the challenge."""

    name: str
    truth: NDArray[np.bool_]
    proposal: NDArray[np.float32]
    ignore: NDArray[np.bool_] | None
    gold: dict[str, Any]


class Gold:
    def __init__(self, folder: Path) -> None:
        self.numbers = json.loads((folder / "gold.json").read_text())
        self.tiny = json.loads((folder / "tiny_cases.json").read_text())
        with np.load(folder / "cases.npz") as arrays:
            self.arrays = {name: arrays[name] for name in arrays.files}
        self.make = _module(folder / "make_cases.py")

    def isbi(self, *sources: str) -> Iterator[Case]:
        for gold in self.numbers["isbi"]["cases"]:
            if gold["source"] in sources:
                yield Case(gold["name"], *getattr(self, f"_{gold['source']}")(gold), gold)

    def _tiny(self, gold: dict[str, Any]) -> tuple[Any, ...]:
        case = self.tiny[gold["name"]]
        ignore = np.array(case["mask"]) == 0 if "mask" in case else None
        return np.array(case["label"]) > 0, self.make.tenths_prob(case["tenths"]), ignore

    def _tissue(self, gold: dict[str, Any]) -> tuple[Any, ...]:
        return self.arrays["tissue/label"] > 0, self.make.prob(self.arrays[f"{gold['name']}/q"]), None

    def _isbi(self, gold: dict[str, Any]) -> tuple[Any, ...]:
        label, levels = self.recipes(gold["isbi_slice"])
        level = levels[gold["recipe"]]
        assert self.make.sha(level) == gold["input_sha256"]
        return (label > 0)[None], self.make.prob(level)[None], None

    def recipes(self, number: int) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.uint8]]]:
        if getattr(self, "_number", None) != number:
            folder = SHARED / "data" / "isbi2012" / "train"
            label, image = (self.make.read_png_gray(folder / d / f"{number:02d}.png") for d in ("masks", "images"))
            self._number, self._recipes = number, (label, self.make.recipes(label, image, number))
        return self._recipes


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_cases", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def gold() -> Gold:
    if not (SHARED / "gold" / "gold.json").exists():
        pytest.skip("the reference numbers (../shared/gold) are not here")
    return Gold(SHARED / "gold")


@pytest.fixture(scope="session")
def isbi_gold(gold: Gold) -> Gold:
    if not (SHARED / "data" / "isbi2012" / "train").is_dir():
        pytest.skip("the ISBI 2012 images (../shared/data/isbi2012) are not here")
    return gold
