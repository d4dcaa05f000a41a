"""Files of microscopes for tests: by each library's own writer where it has one, else by the format's specification."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray


def write_czi(path: Path, scenes: Sequence[NDArray[Any]], names: Sequence[str] = (), um: float = 0.25) -> None:
    """Write scenes ``(C, Z, Y, X)``, or ``(Y, X, 3)`` of color, side by side, by pylibCZIrw; Z is 4 times coarser."""
    from pylibCZIrw import czi

    with czi.create_czi(str(path), exist_ok=True) as file:
        for number, scene in enumerate(scenes):
            where = {"location": (number * 1000, 7), "scene": number if len(scenes) > 1 else 0}
            if scene.ndim == 3:
                file.write(np.ascontiguousarray(scene[..., ::-1]), plane={"C": 0, "Z": 0, "T": 0}, **where)
                continue
            for c, channel in enumerate(scene):
                for z, plane in enumerate(channel):
                    file.write(np.ascontiguousarray(plane[..., None]), plane={"C": c, "Z": z, "T": 0}, **where)
        scale = {"scale_x": um * 1e-6, "scale_y": um * 1e-6, "scale_z": 4 * um * 1e-6} if um else {}
        file.write_metadata("test", channel_names=dict(enumerate(names)), **scale)


_LIF_DIMENSIONS = {"X": 1, "Y": 2, "Z": 3, "T": 4}


def write_lif(
    path: Path, images: Mapping[str, NDArray[Any]], axes: str, names: Sequence[str], um: float = 0.25
) -> None:
    """Write images of ``axes`` (C before Y, or S last), as the headers of Leica's LIF version 2 say."""
    blocks, elements = [], []
    for number, (name, given) in enumerate(images.items()):
        array = np.ascontiguousarray(given)
        steps = dict(zip(axes, array.strides, strict=True))
        sides = dict(zip(axes, array.shape, strict=True))
        color = "S" if "S" in axes else "C"
        channels = "".join(
            f'<ChannelDescription DataType="0" ChannelTag="{k + 1 if color == "S" else 0}" '
            f'Resolution="{8 * array.itemsize}" NameOfMeasuredQuantity="" Min="0" Max="1" Unit="" LUTName="{lut}" '
            f'IsLUTInverted="0" BytesInc="{k * steps.get(color, 0)}" BitInc="0"/>'
            for k, lut in enumerate(names)
        )
        dimensions = "".join(
            f'<DimensionDescription DimID="{_LIF_DIMENSIONS[a]}" NumberOfElements="{sides[a]}" Origin="0" '
            f'Length="{(sides[a] - 1) * um * 1e-6:.9g}" Unit="{"s" if a == "T" else "m"}" BitInc="0" '
            f'BytesInc="{steps[a]}"/>'
            for a in axes
            if a in _LIF_DIMENSIONS
        )
        elements.append(
            f'<Element Name="{name}" UniqueID="u{number}"><Data><Image><ImageDescription><Channels>{channels}'
            f"</Channels><Dimensions>{dimensions}</Dimensions></ImageDescription></Image></Data>"
            f'<Memory Size="{array.nbytes}" MemoryBlockID="MemBlock_{number}"/></Element>'
        )
        blocks.append((f"MemBlock_{number}", array.tobytes()))
    xml = (
        '<LMSDataContainerHeader Version="2"><Element Name="project" UniqueID="p"><Children>'
        f"{''.join(elements)}</Children></Element></LMSDataContainerHeader>"
    )
    with path.open("wb") as file:
        file.write(struct.pack("<IIBI", 0x70, 2 * len(xml) + 5, 0x2A, len(xml)) + xml.encode("utf-16-le"))
        for name, data in blocks:
            file.write(struct.pack("<IIBQBI", 0x70, 2 * len(name) + 14, 0x2A, len(data), 0x2A, len(name)))
            file.write(name.encode("utf-16-le") + data)


def _entry(name: str, value: Any) -> bytes:
    """Return one entry of a "lite variant" of Nikon: its type, its name in UTF-16, and its value."""
    label = (name + "\0").encode("utf-16-le")
    kind, content = {
        bool: (1, lambda v: struct.pack("<B", v)),
        int: (3, lambda v: struct.pack("<I", v)),
        float: (6, lambda v: struct.pack("<d", v)),
        str: (8, lambda v: (v + "\0").encode("utf-16-le")),
        dict: (11, lambda v: b""),
    }[type(value)]
    head = struct.pack("<BB", kind, len(name) + 1) + label
    if kind != 11:
        return head + content(value)
    parts = [_entry(key, inner) for key, inner in value.items()]
    inside = b"".join(parts)
    return head + struct.pack("<IQ", len(parts), len(head) + 12 + len(inside)) + inside + bytes(8 * len(parts))


def write_nd2(path: Path, frames: NDArray[Any], names: Sequence[str], loop: int = 1, um: float = 0.25) -> None:
    """Write frames ``(N, C, Y, X)`` of a loop over time (1), positions (2) or sections (4), as chunks of ND2 3.0."""
    count, channels, height, width = frames.shape
    row = channels * width * frames.itemsize
    attributes = {
        "uiWidth": width, "uiWidthBytes": row, "uiHeight": height, "uiComp": channels, "uiSequenceCount": count,
        "uiBpcInMemory": 8 * frames.itemsize, "uiBpcSignificant": 8 * frames.itemsize, "eCompression": 2,
    }  # fmt: skip
    probe = {"m_ExcitationSpectrum": {"uiCount": 0}, "m_EmissionSpectrum": {"uiCount": 0}}
    plane = {"uiCompCount": 1, "pFluorescentProbe": probe}
    planes = {f"a{k}": {"sDescription": name, "uiSampleIndex": k, **plane} for k, name in enumerate(names)}
    picture = {
        "sPicturePlanes": {"uiCount": channels, "sPlaneNew": planes},
        "dCalibration": um or 1.0,
        "bCalibrated": um > 0,
        "dAspect": 1.0,
    }
    pars: dict[str, Any] = {"uiCount": count}
    if loop == 1:
        pars |= {"dStart": 0.0, "dPeriod": 1.0, "dDuration": 1.0}
    elif loop == 2:
        points = {f"i{k:010d}": {"dPosX": 0.0, "dPosY": 0.0, "dPosZ": 0.0} for k in range(count)}
        pars |= {"bRelative": False, "Points": points}
    else:
        pars |= {"dZStep": 4 * um, "dZLow": 0.0, "dZHigh": 4 * um * (count - 1), "dZHome": 0.0, "uiType": 0}
    chunks = {
        "ImageAttributesLV!": _entry("SLxImageAttributes", attributes),
        "ImageMetadataSeqLV|0!": _entry("SLxPictureMetadata", picture),
        "ImageMetadataLV!": _entry("SLxExperiment", {"eType": loop, "uLoopPars": pars}),
    }
    for number, frame in enumerate(frames):  # samples of all channels beside each other, after 8 bytes of a time
        chunks[f"ImageDataSeq|{number}!"] = bytes(8) + np.moveaxis(frame, 0, -1).tobytes()
    places = {}
    with path.open("wb") as file:
        head = struct.pack("<IIQ", 0x0ABECEDA, 32, 64) + b"ND2 FILE SIGNATURE CHUNK NAME01!"
        file.write((head + b"Ver3.0").ljust(4096, b"\0"))
        for name, data in chunks.items():
            places[name] = (file.tell(), len(data))
            label = name.encode().ljust(4096 - 24, b"\0")
            file.write(struct.pack("<IIQ", 0x0ABECEDA, len(label), len(data)) + label + data)
        at = file.tell()
        table = b"".join(n.encode() + struct.pack("<QQ", *place) for n, place in places.items())
        table += b"ND2 CHUNK MAP SIGNATURE 0000001!" + struct.pack("<Q", at)
        file.write(struct.pack("<IIQ", 0x0ABECEDA, 32, len(table)) + b"ND2 FILEMAP SIGNATURE NAME 0001!" + table)


def write_svs(path: Path, image: NDArray[Any], mpp: float = 0.5, levels: int = 1) -> None:
    """Write a slide ``(Y, X, 3)`` as Aperio's scanners do: tiled TIFF with their words, levels halved."""
    words = f"Aperio Image Library v11.2.1\n{image.shape[1]}x{image.shape[0]}|AppMag = 20|MPP = {mpp}"
    with tifffile.TiffWriter(path) as file:
        for level in range(levels):
            part = np.ascontiguousarray(image[:: 4**level, :: 4**level])
            options = {"tile": (64, 64), "photometric": "rgb", "metadata": None, "description": words}
            file.write(part, **options)
