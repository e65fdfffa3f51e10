"""Images as a model of images reads them."""

from __future__ import annotations

import io
import json
from types import SimpleNamespace

import numpy
import pytest
import torch
from PIL import Image

from evertune.backbones.base import BackboneConfig
from evertune.backbones.pixels import PixelReader, open_picture
from evertune.errors import ConfigError
from evertune.streams.contents import Picture


def picture(image, kind="PNG", **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return Picture("", "", data=out.getvalue())


def reader(folder, said=None, **settings):
    (folder / "config.json").write_text("{}")
    if said is not None:
        text = said if isinstance(said, str) else json.dumps(said)
        (folder / "preprocessor_config.json").write_text(text)
    return PixelReader.of(
        BackboneConfig(path=str(folder), task_type="image_classification"), SimpleNamespace(**settings)
    )


def test_16_bits_are_scaled_and_not_cut():
    values = numpy.array([[0, 257 * 100], [257 * 200, 65535]], dtype="uint16")
    for kind in ("PNG", "TIFF", "PPM"):
        opened = open_picture(picture(Image.fromarray(values), kind))
        assert (opened.mode, numpy.asarray(opened).tolist()) == ("L", [[0, 100], [200, 255]])


def test_images_are_turned_as_the_camera_was_held():
    image = Image.new("L", (3, 2))
    image.putpixel((0, 0), 255)
    exif = Image.Exif()
    exif[0x0112] = 6  # the top of the image is its right side
    opened = open_picture(picture(image, exif=exif.tobytes()))
    assert (opened.size, opened.getpixel((1, 0))) == ((2, 3), 255)


@pytest.mark.parametrize(
    ("said", "settings", "size"),
    [
        (None, {"image_size": 8}, (8, 8)),
        (None, {"image_size": [6, 10]}, (6, 10)),
        ({"size": 5}, {}, (5, 5)),
        ({"size": {"height": 5, "width": 7}}, {}, (5, 7)),
        ({"size": {"shortest_edge": 9}}, {}, (9, 9)),
        ({"size": {"shortest_edge": 9}}, {"image_size": 8}, (8, 8)),
        (None, {}, (224, 224)),
    ],
)
def test_sizes(tmp_path, said, settings, size):
    found = reader(tmp_path, said, num_channels=1, **settings)
    assert found.batch([picture(Image.new("L", (4, 4)))]).shape == (1, 1, *size)


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"do_normalize": False},
        {"do_rescale": False, "do_normalize": False},
        {"rescale_factor": 0.01, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]},
        {"resample": 3, "image_mean": 0.25, "image_std": 0.5},
    ],
)
def test_values_are_those_of_transformers(tmp_path, said):
    from transformers import ViTImageProcessorPil

    image = Image.fromarray(numpy.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype="uint8"))
    theirs = ViTImageProcessorPil(**{**said, "size": {"height": 12, "width": 12}})(image, return_tensors="pt")
    ours = reader(tmp_path, said, image_size=12, num_channels=3).batch([picture(image)])
    torch.testing.assert_close(ours, theirs["pixel_values"].float())


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ("{", "This file cannot be read"),
        ("[1]", "This file holds no JSON object"),
        ({"image_mean": [0.5]}, r"`image_mean` is \[0.5\]. Write a list of 3 numbers."),
        ({"image_std": "half"}, '`image_std` is "half"'),
        ({"image_std": [0.5, 0, 0.5]}, "Write numbers other than 0"),
        ({"size": {"height": "x"}}, "`size` is"),
        ({"resample": 9}, "`resample` is 9"),
        ({"rescale_factor": 0}, "`rescale_factor` is 0. Write a number above 0."),
    ],
)
def test_damaged_files_are_named(tmp_path, said, what):
    with pytest.raises(ConfigError, match=what) as error:
        reader(tmp_path, said, num_channels=3)
    assert str(error.value).startswith(str(tmp_path / "preprocessor_config.json"))
