"""Images that cannot be used are found when rows are read, not when their batch is made."""

from __future__ import annotations

import io
import json
import math

import pytest
from PIL import Image

from evertune.errors import DataError
from evertune.streams.instructions import Instructions, TaskSource


def refused(console, path):
    task = TaskSource(name="t", train=path, test=path)
    with pytest.raises(DataError) as error:
        Instructions(tasks=(task,), dev_fraction=0).load(seed=1, console=console)
    return str(error.value).splitlines()[0]


def encoded(kind, mode="RGB", size=(40, 40)):
    out = io.BytesIO()
    Image.effect_noise(size, 60).convert(mode).save(out, kind)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF"])
def test_images_that_are_cut_off(console, write, tmp_path, kind):
    whole = encoded(kind, "L" if kind == "GIF" else "RGB")
    write("a.img", whole)
    good = write("good.jsonl", [{"image": "a.img", "label": n} for n in (0, 1)])
    Instructions(tasks=(TaskSource(name="t", train=good, test=good),)).load(seed=1, console=console)
    write("a.img", whole[: len(whole) // 2])
    rows = write("rows.jsonl", [{"image": "a.img", "label": 1}])
    message = refused(console, rows)
    assert message.startswith(f"{rows}:1: ")
    assert message.endswith("Replace the file, or remove the row.")


def test_images_of_too_many_pixels(console, write):
    out = io.BytesIO()
    Image.new("1", (12_000, 9_000)).save(out, "PNG")
    write("big.png", out.getvalue())
    rows = write("rows.jsonl", [{"image": "big.png", "label": 1}])
    assert "big.png has more than 89 478 485 pixels. Save it smaller." in refused(console, rows)


@pytest.mark.parametrize(
    ("image", "what"),
    [
        ("a\x00b", "There is no image"),
        ("a\ud800", "`image` is not UTF-8"),
        ("x" * 5000, "cannot be read: File name too long"),
        (".", "is a folder or a device, not an image. Write its path relative to the file of rows."),
        ("/dev/zero", "/dev/zero is a folder or a device, not an image."),
    ],
)
def test_paths_that_are_no_images(console, write, image, what):
    assert what in refused(console, write("rows.jsonl", json.dumps({"image": image, "label": 1})))


@pytest.mark.parametrize("pixel", [math.inf, math.nan, 10**400])
def test_pixels_that_are_no_numbers(console, write, pixel):
    rows = write("rows.jsonl", [{"pixels": [0, 1, 2, pixel], "label": 1}])
    assert "not a list of numbers from 0 to 255. Correct it." in refused(console, rows)


def test_values_of_32_bits_are_refused(console, write):
    out = io.BytesIO()
    Image.new("F", (4, 4), 0.5).save(out, "TIFF")
    write("a.tif", out.getvalue())
    assert "has values of 32 bits" in refused(console, write("rows.jsonl", [{"image": "a.tif", "label": 1}]))
