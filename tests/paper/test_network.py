"""Facts of the paper about the network (Ronneberger, Fischer, Brox 2015, Fig. 1 and section 3)."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from septum.arrays.geometry import Geometry, context, is_valid_input, output_side, smallest_input
from septum.nn.dropout import Dropout
from septum.nn.unet import UNet, UNetSettings


@pytest.fixture(scope="module")
def paper() -> UNet:
    return UNet(UNetSettings.paper())


def test_parameters_and_layers(paper: UNet) -> None:
    assert sum(p.numel() for p in paper.parameters()) == 31_030_658
    layers = [m for m in paper.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert len(layers) == 23


def test_sides_of_the_real_network_are_those_of_figure_1() -> None:
    network = UNet(UNetSettings(width=1)).eval()
    seen: list[int] = []
    for block in [*network.down, network.bottom, *reversed(network.merge)]:
        block.register_forward_hook(lambda _m, _i, out: seen.append(out.shape[-1]))
    with torch.no_grad():
        out = network(torch.zeros(1, 1, 572, 572))
    assert seen == [568, 280, 136, 64, 28, 52, 100, 196, 388]
    assert tuple(out.shape) == (1, 2, 388, 388)


def test_features_double_and_halve(paper: UNet) -> None:
    down = [block[0].out_channels for block in paper.down]  # type: ignore[index]
    assert down == [64, 128, 256, 512]
    assert paper.bottom[0].out_channels == 1024  # type: ignore[union-attr]
    assert [(u.in_channels, u.out_channels) for u in paper.up] == [(128, 64), (256, 128), (512, 256), (1024, 512)]
    assert [m[0].in_channels for m in paper.merge] == [128, 256, 512, 1024]  # type: ignore[index]
    assert (paper.head.in_channels, paper.head.out_channels, paper.head.kernel_size) == (64, 2, (1, 1))


def test_valid_sides_are_16k_plus_60() -> None:
    valid = [n for n in range(1, 700) if is_valid_input(n, 4)]
    assert valid == [16 * k + 60 for k in range(8, 40)]
    assert smallest_input(4) == 188
    assert [output_side(n, 4) for n in (188, 572, 700)] == [4, 388, 516]
    assert context(4) == 92


def test_a_side_that_does_not_fit_is_refused(paper: UNet) -> None:
    with pytest.raises(ValueError, match="572"):
        paper(torch.zeros(1, 1, 572, 570))


def test_initial_deviations_are_sqrt_2_over_n(paper: UNet) -> None:
    for module in paper.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            n = module.in_channels * (module.kernel_size[0] ** 2 if isinstance(module, nn.Conv2d) else 1)
            expected = (2 / n) ** 0.5
            # The deviation of m Gaussians scatters by 1 / sqrt(2 m) of itself; five such scatters never fail by chance.
            tolerance = 5 * expected / (2 * module.weight.numel()) ** 0.5
            assert abs(float(module.weight.detach().std()) - expected) < tolerance
            assert module.bias is not None
            assert float(module.bias.detach().abs().max()) == 0.0
    assert pytest.approx(0.0589, abs=1e-4) == (2 / 576) ** 0.5


def test_dropout_stands_at_the_end_of_the_contracting_path(paper: UNet) -> None:
    assert [isinstance(block[-1], Dropout) for block in paper.down] == [False, False, False, True]  # type: ignore[index]
    assert isinstance(paper.bottom[-1], Dropout)
    assert all(not isinstance(m, Dropout) for block in paper.merge for m in block)  # type: ignore[union-attr]
    assert paper.bottom[-1].probability == 0.5


def test_overlap_tile_of_the_paper() -> None:
    geometry = Geometry((4, 4))
    assert geometry.output((572, 572)) == (388, 388)
    assert geometry.contexts == (92, 92)
    assert geometry.grid == (16, 16)
