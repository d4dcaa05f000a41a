"""Draw the results of benchmarks/annotator.py: AP50 over the seconds of a person, a plot for each set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from septum.report.plots import BOTTOM, COLORS, HEIGHT, LEFT, WIDTH, PlotArea, axis

TITLES = {"demo": "generated cells", "fluorescence": "nuclei, DSB 2018", "dic-hela": "HeLa cells, DIC-C2DH-HeLa"}
NAMES = {
    "studio": "studio, from nothing",
    "busy": "studio, a third of the steps",
    "warm": "studio, from a model",
    "forest": "random forest and watershed",
    "whole": "whole images, then septum train",
    "full": "all images annotated",
}
STYLE = (
    "text{font:12.5px sans-serif;fill:#5d6771}.grid{stroke:#e2e0db}.axis{stroke:#5d6771;fill:none}"
    ".line{fill:none;stroke-width:2}"
)


def draw(results: dict[str, dict[str, Any]], path: Path) -> None:
    """Write the picture.

    Parameters
    ----------
    results
        By set and method, as `annotator.py` keeps them.
    path
        An SVG file.
    """
    names = [name for name in TITLES if name in results]
    parts = []
    for place, name in enumerate(names):
        known = [one for one in results[name] if one in NAMES and results[name][one]["curve"]]
        timed = [p["seconds"] for one in known for p in results[name][one]["curve"] if p["seconds"] is not None]
        area = PlotArea(axis("seconds of the person", np.array(timed), low=0), axis("AP50", np.zeros(1), low=0, high=1))
        low = all(results[name][one]["curve"][-1]["AP50"] < 0.4 for one in known if one != "full")
        marks = [f'<text class="label" x="{LEFT + 8}" y="30">{TITLES[name]}</text>']
        for number, method in enumerate(one for one in NAMES if one in known):
            color, curve = COLORS[list(NAMES).index(method)], results[name][method]["curve"]
            y = np.array([p["AP50"] for p in curve], np.float64)
            if method == "full":
                line = f'stroke-dasharray="5 4" d="M{LEFT} {area.ys(y)[0]:.1f}H{WIDTH - 14}"'
            else:
                x = np.array([p["seconds"] for p in curve], np.float64)
                line = f'd="{area.path(x, y)}"'
                dots = zip(area.xs(x), area.ys(y), strict=True)
                marks += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{color}"/>' for a, b in dots]
            marks.append(f'<path class="line" stroke="{color}" {line}/>')
            top = HEIGHT - BOTTOM - 12 - 17 * number - (80 if low else 0)
            marks.append(
                f'<text x="{WIDTH - 24}" y="{top}" text-anchor="end" style="fill:{color}">{NAMES[method]}</text>'
            )
        where = f'x="{WIDTH * place}" y="0" width="{WIDTH}" height="{HEIGHT}" '
        parts.append(
            str(area.drawing(f"AP50 over seconds, {TITLES[name]}", marks)).replace("<svg ", f"<svg {where}", 1)
        )
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH * len(names)} {HEIGHT}"><style>{STYLE}</style>'
    path.write_text(f'{head}<rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n')
