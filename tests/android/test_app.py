"""The example application hangs together: what its sources name is there. It needs the Android SDK to be compiled."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from xml.etree import ElementTree

from packqvit_delegate.metadata import NAMES

ROOT = Path(__file__).resolve().parents[2]
APP = ROOT / "examples" / "android" / "app"
MAIN = APP / "app" / "src" / "main"
KOTLIN = "\n".join(path.read_text() for path in sorted(MAIN.rglob("*.kt")))
MANIFEST = (MAIN / "AndroidManifest.xml").read_text()


def test_strings_are_defined_and_used():
    defined = {element.attrib["name"] for element in ElementTree.parse(MAIN / "res/values/strings.xml").getroot()}
    used = {*re.findall(r"R\.string\.(\w+)", KOTLIN), *re.findall(r"@string/(\w+)", MANIFEST)}
    assert used == defined


def test_the_manifest_names_what_is_there():
    ElementTree.fromstring(MANIFEST)
    for resource in re.findall(r"@xml/(\w+)", MANIFEST):
        ElementTree.parse(MAIN / "res" / "xml" / f"{resource}.xml")
    activity = re.search(r'android:name="\.(\w+)"', MANIFEST)
    assert activity is not None and f"class {activity[1]} :" in KOTLIN
    provider = re.search(r'android:authorities="\$\{applicationId\}(\.\w+)"', MANIFEST)
    assert provider is not None and f'"$packageName{provider[1]}"' in KOTLIN


def test_the_page_copies_what_the_application_opens():
    page = (ROOT / "docs" / "android.md").read_text()
    for name in re.findall(r'const val MODEL = "(.+)"', KOTLIN):
        assert f"app/src/main/assets/{name}\n" in page
    library = re.search(r'files\("(.+)"\)', (APP / "app" / "build.gradle.kts").read_text())
    assert library is not None and f"executorch.aar examples/android/app/app/{Path(library[1]).parent}/" in page


def test_what_is_copied_is_not_committed():
    copied = ["app/libs/executorch.aar", "app/src/main/assets/model.pte"]
    result = subprocess.run(["git", "check-ignore", *copied], cwd=APP, capture_output=True, text=True)
    assert result.stdout.split() == copied, result.stderr


def test_the_application_asks_for_what_programs_tell():
    asked = set(re.findall(r'(?:constant\(|module\.execute\()"(\w+)"', KOTLIN)) | {"top_k"}
    assert {"image_size", "image_crop", "image_layout", "class_names"} <= asked <= NAMES
