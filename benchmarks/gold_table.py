"""Our value beside the reference value for every case of the reference numbers (../shared/gold), as a table. ::

    .venv/bin/python benchmarks/gold_table.py

Prints a summary and writes the whole table to benchmarks/results/gold_table.md. ISBI sections are skipped, with
the reason, if their images (../shared/data/isbi2012) are missing.
"""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from septum.metrics import contingency, ctc, information, isbi, matching, rand, thinning, warping

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
CHALLENGE = {
    "V_Rand": "v_rand_thinned_max",
    "V_Info": "v_info_thinned_max",
    "warping error": "warping_splits_mergers_r20_min",
    "warping error (all)": "warping_full_min",
    "Rand error": "old_foreground_rand_error",
    "Rand error (2014)": "old_foreground_rand_error_2014",
    "pixel error": "pixel_error",
}
MATCHING = {
    "f1": "f1",
    "ap": "accuracy",
    "mean_true_iou": "mean_true_score",
    "mean_matched_iou": "mean_matched_score",
    "panoptic_quality": "panoptic_quality",
}
KINDS = ("object_add", "object_del", "hole_add", "hole_del", "merge", "split")


@dataclass(frozen=True)
class Line:
    case: str
    score: str
    ours: float
    gold: float

    @property
    def apart(self) -> float:
        if math.isnan(self.ours) and math.isnan(self.gold):
            return 0.0
        return abs(self.ours - self.gold) if not math.isnan(self.ours - self.gold) else math.inf


class Reference:
    def __init__(self, folder: Path) -> None:
        self.gold = json.loads((folder / "gold.json").read_text())
        self.tiny = json.loads((folder / "tiny_cases.json").read_text())
        self.arrays = dict(np.load(folder / "cases.npz"))
        spec = importlib.util.spec_from_file_location("make_cases", folder / "make_cases.py")
        assert spec is not None and spec.loader is not None
        self.make = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.make)
        self.last: tuple[int, Any] = (-1, None)

    def images(self, case: dict[str, Any]) -> tuple[Any, Any, Any]:
        """Truth, proposal and ignored pixels ``(N, Y, X)`` of an ISBI case."""
        if case["source"] == "tiny":
            tiny = self.tiny[case["name"]]
            ignore = np.array(tiny["mask"]) == 0 if "mask" in tiny else None
            return np.array(tiny["label"]) > 0, self.make.tenths_prob(tiny["tenths"]), ignore
        if case["source"] == "tissue":
            return self.arrays["tissue/label"] > 0, self.make.prob(self.arrays[f"{case['name']}/q"]), None
        if self.last[0] != case["isbi_slice"]:
            self.last = case["isbi_slice"], self.recipes(case["isbi_slice"])
        label, levels = self.last[1]
        return (label > 0)[None], self.make.prob(levels[case["recipe"]])[None], None

    def recipes(self, number: int) -> tuple[Any, Any]:
        folder = SHARED / "data" / "isbi2012" / "train"
        label, image = (self.make.read_png_gray(folder / d / f"{number:02d}.png") for d in ("masks", "images"))
        return label, self.make.recipes(label, image, number)


def number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def isbi_lines(reference: Reference, case: dict[str, Any]) -> Iterator[Line]:
    truth, proposal, ignore = reference.images(case)
    places = range(len(truth))
    warp = "warping" in case["slices"][0][0]
    plain = isbi.combine([isbi.section(truth[z], proposal[z], warp=warp and ignore is None) for z in places])
    masked = plain
    if ignore is not None:  # the program was given the mask for warping only
        masked = isbi.combine([isbi.section(truth[z], proposal[z], ignore=ignore[z]) for z in places])
    for name, key in CHALLENGE.items():
        if key in case["challenge"]:
            found = masked if "warping" in name else plain
            yield Line(case["name"], name, found[name].value, number(case["challenge"][key]))
    yield from level_lines(case, truth, proposal, ignore)


def level_lines(case: dict[str, Any], truth: Any, proposal: Any, ignore: Any) -> Iterator[Line]:
    """The largest difference over slices and thresholds, one line a score."""
    worst: dict[str, Line] = {}

    def note(score: str, ours: float, gold: float) -> None:
        line = Line(case["name"], f"{score}, every threshold", ours, gold)
        if score not in worst or line.apart > worst[score].apart:
            worst[score] = line

    for z, levels in enumerate(case["slices"]):
        objects = thinning.components(truth[z])
        for k, level in enumerate(levels):
            white = proposal[z].astype(np.float64) > isbi.THRESHOLDS[k]
            for how, labels in (("thinned", thinning.thin(white)), ("raw", thinning.components(white))):
                table = contingency.table(objects, labels)
                pairs, nats = rand.score(table), information.score(table)
                for part in ("f", "split", "merge"):
                    note(f"Rand {part} {how}", getattr(pairs, part), number(level[how][f"v_rand_{part}"]))
                note(f"information f {how}", nats.f, number(level[how]["v_info_f"]))
                if nats.proposal > 0:
                    note(f"information split {how}", nats.split, number(level[how]["v_info_split"]))
                if nats.truth > 0:
                    note(f"information merge {how}", nats.merge, number(level[how]["v_info_merge"]))
            if "warping" in level:
                hidden = None if ignore is None else ignore[z]
                warped = warping.warp(truth[z], proposal[z], isbi.THRESHOLDS[k], ignore=hidden)
                note("warping mismatches", len(warped.places), level["warping"]["n_mismatch"])
                kinds = warping.kinds(warped)
                for kind, key in zip(warping.Mismatch, KINDS, strict=True):
                    note("warping kinds, pixels", warping.pixels(kinds)[kind], level["warping"]["pixels_r20"][key])
                    groups = warping.clusters(warped, kinds)[kind]
                    note("warping kinds, clusters", groups, level["warping"]["clusters_r20"][key])
    yield from worst.values()


def stack_lines(reference: Reference) -> Iterator[Line]:
    for recipe, gold in reference.gold["isbi"]["three_slice_stack"].items():
        sections = []
        for z in gold["slices"]:
            label, levels = reference.recipes(z)
            sections.append(isbi.section(label > 0, reference.make.prob(levels[recipe]), warp=False))
        found = isbi.combine(sections)
        for name, key in CHALLENGE.items():
            if key in gold:
                yield Line(f"isbi sections 0, 10, 20: {recipe}", name, found[name].value, number(gold[key]))


def object_lines(reference: Reference) -> Iterator[Line]:
    arrays, gold = reference.arrays, reference.gold
    tables = {
        n: contingency.table(arrays[f"match/{n}/true"], arrays[f"match/{n}/pred"]) for n in gold["matching"]["cases"]
    }
    for case, theirs in gold["matching"]["cases"].items():
        yield from matching_lines(f"match {case}", matching.scores(tables[case]), theirs["stardist"])
    data = gold["matching"]["dataset"]
    chosen = [tables[n] for n in data["images"]]
    yield from matching_lines("match data set, pooled", matching.scores(chosen), data["by_image_false"])
    by_image = matching.scores(chosen, by_image=True)
    yield from matching_lines("match data set, by image", by_image, data["by_image_true"])
    for case, theirs in gold["pairs"].items():
        key, other = (f"match/{case[6:]}", "pred") if case.startswith("match_") else (f"pair/{case}", "test")
        table = contingency.table(arrays[f"{key}/true"], arrays[f"{key}/{other}"])
        pairs, nats = rand.score(table), information.score(table)
        yield Line(f"pair {case}", "Rand f", pairs.f, number(theirs["isbi"]["v_rand_f"]))
        yield Line(f"pair {case}", "Rand split", pairs.split, number(theirs["isbi"]["v_rand_split"]))
        yield Line(f"pair {case}", "Rand merge", pairs.merge, number(theirs["isbi"]["v_rand_merge"]))
        yield Line(f"pair {case}", "information f", nats.f, number(theirs["isbi"]["v_info_f"]))
    for case, theirs in gold["ctc"].items():
        seg, tra, res, frames = (arrays[f"ctc/{case}/{k}"] for k in ("seg", "tra", "res", "seg_frames"))
        found = ctc.det(contingency.table(t, r) for t, r in zip(tra, res, strict=True))
        ours = ctc.seg([contingency.table(seg[f], res[f]) for f in frames])
        yield Line(f"ctc {case}", "SEG", ours, number(theirs["seg_exact"]))
        yield Line(f"ctc {case}", "DET", found.det, number(theirs["det_exact"]))
        for name, count in (("NS", found.splits), ("FN", found.misses), ("FP", found.extras)):
            yield Line(f"ctc {case}", name, count, theirs["operations"][name])


def matching_lines(case: str, ours: Any, theirs: Any) -> Iterator[Line]:
    """One line a score: the threshold of largest difference, 0.5 where there is none."""
    for name, key in {"tp": "tp", "fp": "fp", "fn": "fn", **MATCHING}.items():
        both = zip(ours, theirs, strict=True)
        lines = [Line(case, f"{name} at {o.threshold:.2f}", getattr(o, name), t[key]) for o, t in both]
        yield max(lines, key=lambda line: line.apart)


def main() -> None:
    if not (SHARED / "gold" / "gold.json").exists():
        raise SystemExit(f"the reference numbers are not there: {SHARED / 'gold'}")
    reference = Reference(SHARED / "gold")
    here = (SHARED / "data" / "isbi2012" / "train").is_dir()
    lines: list[Line] = []
    skipped = []
    for case in reference.gold["isbi"]["cases"]:
        if case["source"] == "isbi" and not here:
            skipped.append(case["name"])
        else:
            lines += isbi_lines(reference, case)
    lines += stack_lines(reference) if here else []
    lines += object_lines(reference)
    apart = [line for line in lines if line.apart > (1e-6 if line.case.startswith("match") else 1e-9)]
    summary = (
        f"{len({x.case for x in lines})} cases, {len(lines)} values; apart by more than the tolerance: {len(apart)}"
    )
    reason = f"; {len(skipped)} ISBI cases skipped: the images are not there" if skipped else ""
    table = ["| case | score | Septum | reference | apart |", "|---|---|---|---|---|"]
    table += [f"| {x.case} | {x.score} | {x.ours:.10g} | {x.gold:.10g} | {x.apart:.1g} |" for x in lines]
    head = (
        "# Our value beside the reference value\n\n"
        "References: Fiji's Trainable_Segmentation (ISBI 2012), the Cell Tracking Challenge's programs, StarDist\n"
        "(which rounds IoU to float32: tolerance 1e-6; elsewhere 1e-9, counts exact). `nan`: not defined in both. A\n"
        'line "every threshold" shows the slice and threshold of largest difference. Parts of the information score\n'
        "whose entropy is 0 are left out: they are 0 / 0, and the program prints what rounding makes of it.\n\n"
        f"{summary}{reason}.\n\n"
    )
    (ROOT / "benchmarks" / "results" / "gold_table.md").write_text(head + "\n".join(table) + "\n")
    for line in apart:
        sys.stdout.write(f"APART {line}\n")
    sys.stdout.write(summary + reason + "\n")


if __name__ == "__main__":
    main()
