"""The report in a real browser: it draws, its numbers are there, and nothing in it runs or asks the network."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from evertune.reporting.html import write_report

pytestmark = pytest.mark.browser

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@pytest.fixture(scope="session")
def chromium() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")


def browse(chromium: str, profile: Path, page: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [chromium, *FLAGS, f"--user-data-dir={profile}", *flags, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


@pytest.mark.parametrize("name", ["four", "fifteen"])
def test_the_report_is_drawn(name: str, chromium: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    run = Path(shutil.copytree(request.getfixturevalue(name), tmp_path / name))
    page = write_report(run)
    picture = tmp_path / "report.png"
    browse(chromium, tmp_path / "profile", page, f"--screenshot={picture}", "--window-size=1280,2600")
    pixels = imread(picture)[..., :3]
    assert pixels.shape == (2600, 1280, 3)
    packed = (pixels * 255).astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)
    assert len(np.unique(packed)) > 300, "a heat map, charts and text"
    # The deep blue of high scores covers a good many pixels only if the matrix was drawn.
    blue = (pixels[..., 2] > 0.35) & (pixels[..., 0] < 0.15) & (pixels[..., 1] < 0.45)
    assert blue.sum() > 5000
    # Nothing is wider than the window.
    assert (pixels[:, -8:] == pixels[0, -1]).all()


def test_the_browser_sees_the_numbers(chromium: str, four: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(four, tmp_path / "run"))
    page = write_report(run)
    dom = browse(chromium, tmp_path / "profile", page, "--dump-dom").stdout
    matrix = json.loads((run / "matrix.json").read_text())
    shown = [float(value) for value in re.findall(r'data-value="([^"]+)"', dom)]
    assert shown == [score for row in (matrix["zero_shot"], *matrix["values"]) for score in row if score is not None]
    assert "<script" not in dom
    assert "&lt;script&gt;alert" in dom
