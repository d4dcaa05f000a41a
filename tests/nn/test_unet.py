from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from septum.nn.dropout import Dropout
from septum.nn.unet import UNet, UNetSettings, _joined, center_crop, for_prediction


def test_center_crop_takes_the_center() -> None:
    x = torch.arange(36.0).reshape(1, 1, 6, 6)
    assert center_crop(x, (2, 4)).tolist() == [[[[13, 14, 15, 16], [19, 20, 21, 22]]]]


@pytest.mark.parametrize("depths", [(2, 2), (1, 3), (1, 2, 2), (0, 1, 1)])
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_output_sides_equal_those_of_geometry(depths: tuple[int, ...], padding: str) -> None:
    settings = UNetSettings(channels=3, classes=4, depths=depths, width=2, padding=padding)
    sides = settings.geometry.input_for((5,) * len(depths))
    out = UNet(settings)(torch.zeros(1, 3, *sides))
    assert tuple(out.shape) == (1, 4, *settings.geometry.output(sides))


def test_output_pixel_depends_on_its_context_only() -> None:
    for depths, padding in [((2, 2), "valid"), ((2, 2), "same"), ((1, 3), "same"), ((0, 1), "valid")]:
        settings = UNetSettings(depths=depths, width=3, padding=padding)
        network = UNet(settings, seed=1).eval()
        # A smooth activation and the mean instead of the maximum, so that each dependence appears in the gradient.
        for module in network.modules():
            if isinstance(module, nn.Sequential):
                for i, layer in enumerate(module):
                    if isinstance(layer, nn.ReLU):
                        module[i] = nn.Softplus()
        geometry = settings.geometry
        sides = geometry.input_for((24, 24))
        x = torch.randn(1, 1, *sides, dtype=torch.float64, requires_grad=True)
        with torch.no_grad():
            network.double()
        at = [c + 8 for c in geometry.crop]
        network(x)[0, 0, at[0], at[1]].backward()
        assert x.grad is not None
        touched = x.grad[0, 0].abs() > 0
        for axis in range(2):
            place = 8 + geometry.contexts[axis]  # output pixel in input coordinates; it begins a pooling cell
            cell = geometry.grid[axis] if padding == "valid" else 1
            lines = torch.nonzero(touched.any(dim=1 - axis)).flatten()
            assert int(lines.min()) >= place - geometry.contexts[axis]
            assert int(lines.max()) <= place + geometry.contexts[axis] + cell - 1


def test_for_prediction_folds_batch_norm_with_equal_outputs() -> None:
    settings = UNetSettings(depths=(2, 2), width=4, batch_norm=True, dropout=0.3, leak=0.1)
    network = UNet(settings)
    generator = torch.Generator().manual_seed(0)
    for number in range(3):
        network.seed_dropout([number], (44, 44))
        network(torch.randn(1, 1, 44, 44, generator=generator))  # updates the running statistics
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2.0, generator=generator)
            nn.init.normal_(module.bias, generator=generator)
    folded = for_prediction(network)
    assert not any(isinstance(m, nn.BatchNorm2d | Dropout) for m in folded.modules())
    x = torch.randn(1, 1, 60, 44, generator=generator)
    with torch.no_grad():
        expected = network.eval()(x)
        torch.testing.assert_close(folded(x), expected, rtol=1e-4, atol=1e-4)
    assert float(expected.std()) > 0.01


def test_for_prediction_without_batch_norm_copies_the_weights() -> None:
    network = UNet(UNetSettings(depths=(1, 1), width=2, dropout=0.5), seed=3)
    x = torch.randn(1, 1, 20, 20)
    with torch.no_grad():
        assert torch.equal(for_prediction(network)(x), network.eval()(x))


def test_dropout_repeats_with_its_seed_and_drops_the_stated_share() -> None:
    dropout = Dropout(0.25)
    x, shape, cpu = torch.ones(2, 100_000), (100_000,), torch.device("cpu")
    dropout.draw([7, 9], shape, cpu)
    first = dropout(x)
    dropout.draw([7, 9], shape, cpu)
    assert torch.equal(first, dropout(x))
    dropout.draw([9], shape, cpu)
    assert torch.equal(first[1:], dropout(x[1:]))  # a sample's mask does not depend on its neighbors in the batch
    dropout.draw([8, 9], shape, cpu)
    assert not torch.equal(first, dropout(x))
    assert float((first == 0).float().mean()) == pytest.approx(0.25, abs=0.01)
    assert float(first.max()) == pytest.approx(1 / 0.75)
    assert torch.equal(dropout.eval()(x), x)


@pytest.mark.parametrize("depths", [(2, 2), (1, 3), (1, 2, 2), (0, 1, 1)])
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_drop_out_masks_have_the_shape_of_the_features(depths: tuple[int, ...], padding: str) -> None:
    network = UNet(UNetSettings(depths=depths, width=8, padding=padding, dropout=0.5)).train()
    sides = network.geometry.input_for((5,) * len(depths))
    network.seed_dropout([3, 4], sides)
    first = network(torch.ones(2, 1, *sides))  # a mask of another shape would be refused
    network.seed_dropout([3, 5], sides)
    second = network(torch.ones(2, 1, *sides))
    assert torch.equal(first[0], second[0]) and not torch.equal(first[1], second[1])


def test_weights_depend_on_the_seed_only() -> None:
    a, b, c = (UNet(UNetSettings(depths=(1, 1), width=2), seed=s) for s in (5, 5, 6))
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert any(not torch.equal(p, q) for p, q in zip(a.parameters(), c.parameters(), strict=True))


@pytest.mark.parametrize(
    "wrong",
    [
        {"depths": (2,)},
        {"depths": (0, 0)},
        {"width": 0},
        {"classes": 1},
        {"dropout": 1.0},
        {"padding": "reflect"},
        {"levels": 3},
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        UNetSettings.model_validate(wrong)


def test_unset_network_draws_nothing_and_loads_weights() -> None:
    settings = UNetSettings(depths=(1, 1), width=2, batch_norm=True)
    source = UNet(settings, seed=5)
    before = torch.random.get_rng_state()
    loaded = UNet.unset(settings)
    assert torch.equal(torch.random.get_rng_state(), before)
    loaded.load_state_dict(source.state_dict())
    assert loaded.settings == settings
    assert all(
        torch.equal(a, b) for a, b in zip(source.state_dict().values(), loaded.state_dict().values(), strict=True)
    )
    assert {t.device.type for t in loaded.state_dict().values()} == {"cpu"}
    x = torch.randn(1, 1, 44, 44, generator=torch.Generator().manual_seed(0))
    assert torch.equal(source.eval()(x), loaded.eval()(x))


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_gradients_of_joined_features_keep_the_memory_format(order: torch.memory_format) -> None:
    parts = [
        torch.randn(2, c, *s).contiguous(memory_format=order).requires_grad_() for c, s in ((3, (9, 8)), (2, (5, 6)))
    ]
    weight = torch.randn(2, 5, 5, 6).contiguous(memory_format=order)
    found = torch.autograd.grad((_joined(parts[0], parts[1]) * weight).sum(), parts)
    joined = torch.cat([parts[0][:, :, 2:7, 1:7], parts[1]], dim=1)
    expected = torch.autograd.grad((joined * weight).sum(), parts)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert found[0].is_contiguous(memory_format=order)
