"""Feature maps share memory only if they are never alive at the same time."""

from __future__ import annotations

from dataclasses import replace

from septum.cpu._feature_maps import FeatureMap, assign_addresses, plan_memory
from septum.nn.unet import UNetSettings


def test_maps_alive_together_do_not_overlap() -> None:
    for shape in (UNetSettings(width=20), UNetSettings(width=20, padding="same", depths=(2, 2))):
        sides = shape.geometry.input_for((150, 90))
        made = plan_memory(shape, sides, lanes=16, band_pixels=1000)
        for a in made.maps:
            assert a.address % 64 == 0 and a.address + a.bytes <= made.bytes
            for b in made.maps:
                together = a is not b and a.born <= b.dies and b.born <= a.dies
                assert not together or a.address + a.bytes <= b.address or b.address + b.bytes <= a.address


def test_maps_reuse_the_memory_of_dead_maps() -> None:
    one = FeatureMap(8, 8, 1, 64, 0, 8, born=0, dies=1)
    assert assign_addresses([one, replace(one, born=1, dies=1), replace(one, born=2, dies=2)]) == 8192
    assert assign_addresses([]) == 0
