"""Write an ONNX file, and leave it only if onnxruntime computes with it what the model computes."""

from __future__ import annotations

import json
from pathlib import Path

from septum.arrays.normalize import NormalizeSettings
from septum.export.exportable import facts, left_out
from septum.export.onnx_check import Comparison, TestPair, compare
from septum.export.onnx_graph import build_graph
from septum.io.atomic import whole_file
from septum.nn.ensemble import members_of
from septum.nn.unet import UNet
from septum.prediction.model import Model


def write_onnx(
    path: Path,
    model: Model,
    pair: TestPair,
    normalization: NormalizeSettings | None,
    *,
    named: Path | None = None,
) -> tuple[tuple[str, ...], Comparison]:
    """Write an ONNX file, run it, and leave it only if it computes what the model computes.

    Parameters
    ----------
    path
        The file.
    model
        The model.
    pair
        The test pair of the model file.
    normalization
        Normalization to put into the graph; None: the input is normalized already.
    named
        Name for messages, where the file becomes a part of another one; None: `path`.

    Returns
    -------
    inputs, comparison
        Names of the inputs, and what was compared.

    Raises
    ------
    FileError
        If a probability differs by more than `septum.export.onnx_check.TOLERANCE`.
    """
    import onnx

    networks = [n for n in members_of(model.network) if isinstance(n, UNet)]
    metadata = {"septum": json.dumps(facts(model.header))}
    graph = build_graph(networks, normalization, name="septum", metadata=metadata)
    graph.doc_string = " ".join(left_out(model.header))
    onnx.checker.check_model(graph, full_check=True)
    with whole_file(path) as temporary:
        temporary.write_bytes(graph.SerializeToString())
        comparison = compare(temporary, model.network, normalization, pair, named=named or path)
    return tuple(entry.name for entry in graph.graph.input), comparison
