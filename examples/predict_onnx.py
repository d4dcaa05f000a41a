"""Predict an image of any size, tile by tile, with a model of ``septum export MODEL --to onnx``. Septum is not needed.

pip install onnxruntime tifffile
python predict_onnx.py cells.onnx image.tif probability.tif
"""

import json
import sys
from itertools import product

import numpy as np
import onnxruntime
import tifffile


def statistics(channel, method):
    """Return the two statistics of a whole channel that the network asks for."""
    if method == "range":
        return channel.min(), channel.max()
    clipped = np.clip(channel.astype(float), *np.quantile(channel, [0.005, 0.995]))
    return clipped.mean(), clipped.std()


def predict(session, image, cells=16):
    """Return the probabilities (K, *S) of an image (C, *S), computed in tiles of `cells` times the pooling grid."""
    facts = json.loads(session.get_modelmeta().custom_metadata_map["septum"])
    names = [given.name for given in session.get_inputs()][1:]
    both = zip(*(statistics(channel, facts["normalization"]["method"]) for channel in image), strict=True)
    ones = (1,) * (image.ndim - 1)
    whole = {name: np.float32(values).reshape(1, -1, *ones) for name, values in zip(names, both, strict=False)}
    step, context = [g * cells for g in facts["grid"]], facts["context"]
    margins = [(c, c + -n % s) for n, s, c in zip(image.shape[1:], step, context, strict=True)]
    mirrored = np.pad(image, [(0, 0), *margins], mode="reflect").astype(np.float32)
    out = np.zeros((0,))
    for place in product(*(range(0, n, s) for n, s in zip(image.shape[1:], step, strict=True))):
        read = [slice(p, p + s + 2 * c) for p, s, c in zip(place, step, context, strict=True)]
        (found,) = session.run(None, {"image": mirrored[(None, slice(None), *read)], **whole})
        if facts["padding"] == "same":  # the margin of the tile is in the result
            found = found[(..., *(slice(c, -c) for c in context))]
        if not out.size:
            out = np.zeros((found.shape[1], *(n + s for n, s in zip(image.shape[1:], step, strict=True))), np.float32)
        out[(slice(None), *(slice(p, p + s) for p, s in zip(place, step, strict=True)))] = found[0]
    return out[(slice(None), *(slice(n) for n in image.shape[1:]))]


if __name__ == "__main__":
    model, source, target = sys.argv[1:]
    pixels = tifffile.imread(source)
    tifffile.imwrite(target, predict(onnxruntime.InferenceSession(model), pixels[None])[1])
