"""When is a threshold enough? Score Otsu and watershed on synthetic cells under more and more uneven light.

python examples/hard_and_easy_cells.py
"""

from septum.demo.otsu_watershed import otsu_watershed
from septum.demo.synthetic_cells import generate
from septum.metrics import ctc
from septum.metrics.contingency import table

IMAGES = 4

print("light missing at the darkest   one threshold   local brightness subtracted")
for uneven in (0.0, 0.25, 0.5, 0.75):
    scores = []
    for background in (None, 16.0):
        images = [generate(seed, uneven_light=uneven) for seed in range(IMAGES)]
        scores.append(ctc.seg(table(truth, otsu_watershed(i, background_px=background)) for i, truth in images))
    print(f"{uneven:27.0%}   SEG {scores[0]:11.3f}   SEG {scores[1]:23.3f}")
