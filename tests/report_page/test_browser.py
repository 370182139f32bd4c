"""The page in a browser: no error, no request, nothing wider than a phone, both colour schemes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from report_page.conftest import Made

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")

OPTIONS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars --enable-logging=stderr"
).split()
MEASURE = """<script>
for (const fold of document.querySelectorAll("details")) fold.open = true;
const wide = document.documentElement.scrollWidth, there = document.documentElement.clientWidth;
const broken = [...document.images].filter(image => !image.naturalWidth).length;
document.title = JSON.stringify({wide, there, broken, images: document.images.length});
</script>"""


def chromium(place: Path, page: Path, *options: str) -> tuple[str, str]:
    """What the browser prints and what it logs."""
    profile = place / "profile"
    shutil.rmtree(profile, ignore_errors=True)
    result = subprocess.run(
        [str(CHROMIUM), *OPTIONS, f"--user-data-dir={profile}", *options, page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout, result.stderr


@pytest.fixture(scope="module")
def page(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("browser") / "report.html"
    made.program.report.save(path, made.judged, made.timing)
    return path


def test_it_fits_a_phone_and_its_pictures_show(page: Path, tmp_path: Path) -> None:
    """With a script of the test's own, which the page itself would refuse, in a frame as wide as a phone."""
    html = re.sub(r"<meta http-equiv[^>]*>", "", page.read_text()).replace("</body>", f"{MEASURE}</body>")
    (tmp_path / "measured.html").write_text(html)
    output, _ = chromium(tmp_path, tmp_path / "measured.html", "--window-size=390,800", "--dump-dom")
    found = json.loads(re.search(r"<title>(.*?)</title>", output)[1])  # type: ignore[index]
    assert found["wide"] <= found["there"] <= 500, found
    assert found["images"] > 0 and found["broken"] == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_drawn_without_an_error(page: Path, tmp_path: Path, scheme: str) -> None:
    dark = ["--force-dark-mode", "--blink-settings=preferredColorScheme=0"] if scheme == "dark" else []
    picture = tmp_path / "page.png"
    _, log = chromium(tmp_path, page, f"--screenshot={picture}", "--window-size=1200,900", *dark)
    assert "CONSOLE" not in log, log
    pixels = np.asarray(Image.open(picture).convert("L"))
    assert (pixels[5, 5] > 200) == (scheme == "light")
    assert pixels.std() > 10  # something is drawn
