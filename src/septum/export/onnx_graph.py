"""Write a network as an ONNX graph: intensities, U-Net and soft-max.

The graph is written operator by operator, not traced: the U-Net is a closed family, the names are ours, and PyTorch's
exporter is not needed. Whole-image statistics are inputs of the graph and not computed in it: a program that gives
it tiles gets the result of the whole image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from septum.arrays.geometry import smallest_input
from septum.arrays.normalize import NormalizeSettings
from septum.nn.unet import UNet, UNetSettings
from septum.version import __version__

OPSET = 18
"""Version of the operators: the first with CenterCropPad, which crops the skip connections of unpadded networks."""

_IR = 8  # version of the file format that belongs to OPSET

IMAGE, PROBABILITIES = "image", "probabilities"
STATISTICS = {"standardize": ("mean", "std"), "range": ("low", "high"), "common": ()}
"""Names of the inputs for the statistics of the whole image, by the method of normalization."""


def smallest_sides(network: UNetSettings) -> tuple[int, ...]:
    """Return the smallest input side per axis that a network takes."""
    return tuple(1 << d if network.padding == "same" else smallest_input(d) for d in network.depths)


def rest_of_sides(network: UNetSettings) -> int:
    """Return r of the input sides that a network takes: multiples of 2**depth, less r."""
    return 0 if network.padding == "same" else 4


class _Graph:
    """Operators and weights of a graph, in the order in which they are added."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def add(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """Add an operator; return the name of its output."""
        from onnx import helper

        name = name or f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [f"{name}:0"], name=name, **attributes))
        return f"{name}:0"

    def weight(self, name: str, value: NDArray[Any]) -> str:
        """Add a constant array; return its name."""
        from onnx import numpy_helper

        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name


def build_graph(
    networks: Sequence[UNet],
    normalization: NormalizeSettings | None,
    *,
    name: str,
    metadata: Mapping[str, str] | None = None,
) -> Any:
    """Build the ONNX graph of a network, or of several whose probabilities are averaged.

    Parameters
    ----------
    networks
        From `septum.nn.unet.for_prediction`, on the CPU, of equal settings.
    normalization
        Puts the normalization of intensities into the graph, with an input for each statistic; None: the input is
        normalized already.
    name
        Name of the graph.
    metadata
        Texts that the file holds beside the graph.

    Returns
    -------
    onnx.ModelProto
        Inputs: ``image``, float32 ``(batch, C, *S)``; ``mean`` and ``std``, or ``low`` and ``high``, float32
        ``(batch or 1, C, 1, ...)``. Output: ``probabilities``, float32 ``(batch, K, *output)``, 0 to 1.
    """
    from onnx import TensorProto, helper

    settings, graph = networks[0].settings, _Graph()
    letters = "ZYX"[-len(settings.depths) :]
    ones = (1,) * len(letters)
    method = None if normalization is None else normalization.method
    names = STATISTICS[method] if method is not None else ()
    x = IMAGE if normalization is None else _normalized(graph, normalization, ones)
    x = _checked_sides(graph, x, settings)
    members = [_network(graph, network, x, number) for number, network in enumerate(networks, start=1)]
    soft = [graph.add("Softmax", logits, axis=1) for logits in members]
    mean = soft[0] if len(soft) == 1 else graph.add("Mean", *soft)
    graph.nodes.append(helper.make_node("Identity", [mean], [PROBABILITIES], name=PROBABILITIES))

    def described(label: str, shape: Sequence[str | int]) -> Any:
        return helper.make_tensor_value_info(label, TensorProto.FLOAT, list(shape))

    output = letters if settings.padding == "same" else [f"{letter}_out" for letter in letters]
    inputs = [described(IMAGE, ["batch", settings.channels, *letters])]
    inputs += [described(label, ["images", settings.channels, *ones]) for label in names]
    outputs = [described(PROBABILITIES, ["batch", settings.classes, *output])]
    model = helper.make_model(
        helper.make_graph(graph.nodes, name, inputs, outputs, initializer=graph.weights),
        producer_name="septum",
        producer_version=__version__,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=_IR,
    )
    helper.set_model_props(model, dict(metadata or {}))
    return model


def _normalized(graph: _Graph, settings: NormalizeSettings, ones: tuple[int, ...]) -> str:
    """Add ``(image - offset) / scale``, clipped; as `septum.arrays.normalize.normalize` computes it."""
    if settings.method == "common":
        pairs = np.asarray(settings.common, np.float32).reshape(1, -1, 2, *ones[1:])
        offset = graph.weight("offset", pairs[:, :, 0].reshape(1, -1, *ones))
        scale = graph.weight("scale", pairs[:, :, 1].reshape(1, -1, *ones))
    else:
        offset, last = STATISTICS[settings.method]
        scale = graph.add("Sub", last, offset) if settings.method == "range" else last
        zero, one = (graph.weight(n, np.array([v], np.float32)) for n, v in (("zero", 0), ("one", 1)))
        scale = graph.add("Where", graph.add("Greater", scale, zero), scale, one)
    x = graph.add("Div", graph.add("Sub", IMAGE, offset), scale)
    if settings.limit is None:
        return x
    limit = np.asarray(settings.limit, np.float32)
    return graph.add("Clip", x, graph.weight("darkest", -limit), graph.weight("brightest", limit))


def _checked_sides(graph: _Graph, x: str, network: UNetSettings) -> str:
    """Add operators that fail, with a name that says why, where a side of the tile does not fit the network.

    Otherwise the pools of the network would round, and the result would be shifted without a word. A list of one zero
    is asked for its element number 0 where a side fits, and for one that it does not have where it does not.
    """
    rest, letters = rest_of_sides(network), "ZYX"[-len(network.depths) :]
    zero, sizes = graph.weight("nothing", np.zeros(1, np.float32)), graph.add("Shape", x)
    more = graph.weight("rest", np.array([rest]))
    for axis, (letter, depth, least) in enumerate(
        zip(letters, network.depths, smallest_sides(network), strict=True), 2
    ):
        grid = 1 << depth
        size = graph.add("Gather", sizes, graph.weight(f"axis_{letter}", np.array([axis])))
        above = graph.add("Mod", graph.add("Add", size, more), graph.weight(f"grid_{letter}", np.array([grid])))
        below = graph.add("Sub", graph.weight(f"least_{letter}", np.array([least])), size)
        said = f"side_{letter}_must_be_a_multiple_of_{grid}" + (f"_less_{rest}" if rest else "") + f"_from_{least}"
        x = graph.add("Add", x, graph.add("Gather", zero, graph.add("Max", above, below), name=said))
    return x


def _network(graph: _Graph, network: UNet, x: str, member: int) -> str:
    """Add one network; return its logits. Weights are named as in the model file."""
    weights = {name: value.detach().cpu().float().numpy() for name, value in network.state_dict().items()}
    settings, prefix = network.settings, f"network{member}."
    names = {name: graph.weight(prefix + name, value) for name, value in weights.items()}
    rank = len(settings.depths)

    def convolve(x: str, place: str) -> str:
        kernel = weights[f"{place}.weight"].shape[2:]
        margin = [k // 2 if settings.padding == "same" else 0 for k in kernel] * 2
        inputs = (x, names[f"{place}.weight"], names[f"{place}.bias"])
        return graph.add("Conv", *inputs, name=prefix + place, kernel_shape=kernel, pads=margin)

    def block(x: str, layers: nn.Module, place: str) -> str:
        for number, layer in enumerate(layers.children()):
            if isinstance(layer, nn.Conv2d | nn.Conv3d):
                x = convolve(x, f"{place}.{number}")
                x = graph.add("LeakyRelu", x, alpha=settings.leak) if settings.leak else graph.add("Relu", x)
        return x

    skips = []
    for level, (layers, window) in enumerate(zip(network.down, network.pools, strict=True)):
        skips.append(block(x, layers, f"down.{level}"))
        x = graph.add("MaxPool", skips[-1], kernel_shape=window, strides=window)
    x = block(x, network.bottom, "bottom")
    while skips:
        skip, level = skips.pop(), len(skips)
        window, place = network.pools[level], f"up.{level}"
        inputs = (x, names[f"{place}.weight"], names[f"{place}.bias"])
        x = graph.add("ConvTranspose", *inputs, name=prefix + place, kernel_shape=window, strides=window)
        if settings.padding == "valid":
            sides = graph.add("Shape", x, start=2)
            skip = graph.add("CenterCropPad", skip, sides, axes=list(range(2, 2 + rank)))
        x = block(graph.add("Concat", skip, x, axis=1), network.merge[level], f"merge.{level}")
    return convolve(x, "head")
