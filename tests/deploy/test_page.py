"""The page without a server, in a real browser: it must say what the library says, of every picture."""

import csv
import functools
import http.server
import io
import json
import re
import shutil
import struct
import threading
import zlib
from base64 import b64decode, b64encode
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import RepoCard
from PIL import Image
from playwright.sync_api import expect

import admodels
from admodels.core.calibration import Calibration
from admodels.core.results import verdict_of
from admodels.deploy import page as building
from admodels.deploy.exporting import write_onnx
from admodels.deploy.page import build_page
from admodels.errors import ExportError, OptionError, OutputError
from admodels.pictures.decoding import opened_picture, rgb_pixels
from admodels.pictures.render import overlay
from tests.conftest import EXAMPLES, SMALL, encode, gradient

WAIT_MS = 60_000
DEEP_RANGE = (0.0, 4095.0)
RATES = (0.001, 0.01, 0.04, 0.1, 0.25, 0.5)


@pytest.fixture(scope="module")
def detector(normals):
    """PaDiM-iSVD with a border that it does not score; it reads grey pictures of 16 bits as a camera's of 12.

    In float32, as the exported graph computes, whatever the processor multiplies.
    """
    options = SMALL["padim_isvd"] | {"image_size": 96, "crop": 64, "value_range": "0:4095"}
    return admodels.create("padim_isvd", device="cpu", precision="float32", **options).fit(normals)


@pytest.fixture(scope="module")
def onnx_file(detector, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "specks.onnx"
    write_onnx(detector, path, source="local:specks", licence="Apache-2.0")
    return path


@pytest.fixture(scope="module")
def built(onnx_file, tmp_path_factory):
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed: it fetches ONNX Runtime Web")
    return build_page(onnx_file, tmp_path_factory.mktemp("built") / "site")


@contextmanager
def served(folder):
    """A folder on a free port, with the headers that a page needs for threads; yields its address and the server."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def end_headers(self):
            for name, value in (building.HEADERS | {"access-control-allow-origin": "*"}).items():
                self.send_header(name, value)
            super().end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", server
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def visiting(browser, url, *, state="ready", before=None, **options):
    """A visitor's page that has started; its own code must not fail, and it must ask nobody else for anything."""
    context = browser.new_context(permissions=["camera"], **options)
    page = context.new_page()
    problems, requests = [], []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    if before:
        before(page)
    page.goto(url)
    page.wait_for_selector(f"body[data-state={state}]", timeout=WAIT_MS)
    yield page
    assert problems == []
    allowed = (url, "blob:", "data:", building.CDN)
    assert [address for address in requests if not address.startswith(allowed)] == []
    context.close()


@pytest.fixture(scope="module")
def address(built):
    with served(built.folder) as (url, _):
        yield url


@pytest.fixture(scope="module")
def opened(browser, address):
    with visiting(browser, address) as page:
        yield page


@pytest.fixture
def visit(opened):
    """The shared page without pictures, its threshold as the model has it."""
    opened.set_viewport_size({"width": 1280, "height": 900})
    if opened.is_visible("#clear"):
        opened.click("#clear")
    if opened.is_visible("#as-fitted"):
        opened.click("#as-fitted")
    return opened


def give(page, files, selector="#files"):
    """Choose files, {name: bytes}, and wait for all of them."""
    n = page.locator(".row").count() + len(files)
    page.set_input_files(selector, [{"name": k, "mimeType": "", "buffer": v} for k, v in files.items()])
    scored(page, n)


def scored(page, n):
    """Wait until so many pictures are listed and none is under way."""
    expect(page.locator(".row")).to_have_count(n, timeout=WAIT_MS)
    page.wait_for_selector("body[data-busy=false]", timeout=WAIT_MS)


def table(page):
    """The downloaded CSV, a row for each picture."""
    with page.expect_download() as download:
        page.click("#csv")
    return list(csv.DictReader(Path(download.value.path()).read_text(encoding="utf-8-sig").splitlines()))


def in_csv(verdict):
    """What the downloaded table calls a verdict."""
    return "anomalous" if verdict == "suspected" else verdict.value


def set_rate(page, position):
    page.eval_on_selector(
        "#rate", "(slider, to) => { slider.value = to; slider.dispatchEvent(new Event('input')) }", position
    )


def slanted(orientation, kind, **options):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(gradient(90, 61), kind, exif=exif.tobytes(), **options)


def kinds():
    """One picture of each kind that a page decodes by its own rules."""
    rgb, rng = gradient(97, 61), np.random.default_rng(0)
    grey, alpha = rgb.convert("L"), Image.fromarray(rng.integers(0, 256, (61, 97), dtype=np.uint8))
    see_through = Image.merge("RGBA", [*rgb.split(), alpha])
    invisible = Image.merge("RGBA", [*rgb.split(), Image.new("L", rgb.size, 0)])
    deep = Image.fromarray(rng.integers(0, 5000, (61, 97)).astype(np.uint16))
    return {
        "rgb.png": encode(rgb),
        "grey.png": encode(grey),
        "two-levels.png": encode(rgb.convert("1")),
        "palette.png": encode(rgb.quantize(13)),
        "palette-clear.png": encode(rgb.quantize(10), transparency=3),
        "rgba.png": encode(see_through),
        "grey-alpha.png": encode(see_through.convert("LA")),
        "invisible.png": encode(invisible),
        "deep.png": encode(deep),
        "photo.jpg": encode(rgb, "JPEG", quality=80),
        "progressive.jpg": encode(rgb, "JPEG", progressive=True),
        "grey.jpg": encode(grey, "JPEG"),
        "x.webp": encode(rgb, "WEBP", quality=80),
        "x.bmp": encode(rgb, "BMP"),
        "x.gif": encode(rgb, "GIF"),
        **{f"{n}.png": slanted(n, "PNG") for n in range(2, 9)},
        **{f"{n}.jpg": slanted(n, "JPEG") for n in (3, 6, 8)},
        **{f"{n}.webp": slanted(n, "WEBP", lossless=True) for n in (3, 6)},
    }


def any_png(rng, depth, colour, is_interlaced):
    """A PNG of random bytes, with every filter; Pillow writes neither interlaced ones nor 16 bits a colour."""
    width, height = 37, 29
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    lines = b""
    for x, y, step_x, step_y in passes if is_interlaced else [(0, 0, 1, 1)]:
        columns, rows = -(-(width - x) // step_x), -(-(height - y) // step_y)
        n_bytes = -(-columns * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour] * depth // 8)
        lines += b"".join(bytes([int(rng.integers(5))]) + rng.bytes(n_bytes) for _ in range(rows))
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, is_interlaced)
    palette = [(b"PLTE", rng.bytes(3 * 2**depth))] if colour == 3 else []
    chunks = [(b"IHDR", header), *palette, (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def test_pixels_are_pillows(visit, rng):
    depths = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
    sorts = [(depth, colour, i) for colour in depths for depth in depths[colour] for i in (False, True)]
    files = kinds() | {f"PNG of {sort}": any_png(rng, *sort) for sort in sorts}
    asked = [(name, None) for name in files] + [("deep.png", DEEP_RANGE), ("PNG of (16, 0, True)", DEEP_RANGE)]
    found = visit.evaluate(
        """async (asked) => {
            const { decode } = await import("./picture.js");
            return Promise.all(asked.map(async ([file, range]) => {
                const bytes = Uint8Array.from(atob(file), (character) => character.charCodeAt(0));
                const { pixels, width, height } = await decode(new Blob([bytes]), range);
                return [btoa(String.fromCharCode(...pixels)), [height, width, 3]];
            }));
        }""",
        [(b64encode(files[name]).decode(), value_range) for name, value_range in asked],
    )
    for (name, value_range), (pixels, shape) in zip(asked, found, strict=True):
        with opened_picture(files[name], name) as image:
            expected, _ = rgb_pixels(image, name, value_range)
        assert tuple(shape) == expected.shape, name
        assert np.array_equal(np.frombuffer(b64decode(pixels), np.uint8).reshape(shape), expected), name


def test_scores_and_verdicts_are_the_librarys(visit, detector):
    """Over both examples' test pictures, and over each kind of file."""
    paths = [
        path for name in ("pa_brg02_rl", "pa_brg03_tl") for path in sorted((EXAMPLES / name / "test").rglob("*.png"))
    ]
    files = {"-".join(path.parts[-4:]): path.read_bytes() for path in paths} | kinds()
    give(visit, files)
    rows = {row["picture"]: row for row in table(visit)}
    assert rows.keys() == files.keys()
    for name, content in files.items():
        expected, row = detector.predict(content), rows[name]
        assert float(row["score"]) == pytest.approx(expected.score, rel=1e-3), name
        assert row["verdict"] == in_csv(expected.verdict), name
        assert float(row["threshold"]) == expected.threshold
        assert float(row["p_value"]) == pytest.approx(expected.p_value, rel=1e-12)
    verdicts = [row["verdict"] for row in rows.values()]
    assert {"anomalous", "good"} == set(verdicts)
    scores = [float(row["score"]) for row in rows.values()]
    assert scores == sorted(scores, reverse=True)  # worst first
    assert f"{verdicts.count('anomalous')} of {len(files)} anomalous" in visit.inner_text("#summary")
    assert "FPS; p50" in visit.inner_text("#speed")


def test_every_picture_has_its_own_verdict_and_heatmap(visit, detector, specks):
    """Stepping with the keys shows each, also those whose maps are no longer kept."""
    content = [item.path.read_bytes() for item in specks.test]
    give(visit, {f"{i}.png": content[i % len(content)] for i in range(16)})
    visit.focus("#list")
    seen = []
    for _ in range(16):
        name = visit.inner_text(".row[aria-selected=true] .name")
        assert visit.inner_text("#verdict span") == name
        expect(visit.locator("#picture")).to_have_attribute("aria-label", re.compile(f"^{re.escape(name)},"))
        seen.append((name, visit.inner_text("#figures div:first-child dd")))
        visit.keyboard.press("ArrowDown")
    expect(visit.locator("#place")).to_have_text("16 of 16")
    assert {name for name, _ in seen} == {f"{i}.png" for i in range(16)}
    for name, score in seen:
        assert float(score) == pytest.approx(detector.predict(content[int(name[:-4]) % len(content)]).score, rel=1e-3)
    assert visit.get_attribute(".row:last-child", "aria-selected") == "true"
    visit.keyboard.press("Home")
    expect(visit.locator("#place")).to_have_text("1 of 16")


def test_heatmap_is_drawn_as_the_app_draws_it(visit, detector, specks):
    """From the same map, to within rounding; part of it was not scored."""
    content = specks.test[0].path.read_bytes()
    found = detector.predict(content)
    values = found.anomaly_map
    assert np.isnan(values).any()
    pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    calibration = detector.fitted_.calibration
    drawn = visit.evaluate(
        """async ([pixels, map, width, height, mapThreshold]) => {
            const { overlay } = await import("./draw.js");
            const { scale, colours } = await (await fetch("model.json")).json();
            const rgba = new Uint8ClampedArray(4 * width * height);
            pixels.forEach((value, i) => { rgba[4 * Math.floor(i / 3) + (i % 3)] = value; });
            const shown = { rgba, map: Float32Array.from(map, (value) => value ?? NaN), width, height };
            return [...overlay(shown, scale, colours, { mapThreshold, opacity: 0.7, hasContour: true }).data];
        }""",
        [
            pixels.flatten().tolist(),
            [None if np.isnan(v) else float(v) for v in values.flatten()],
            pixels.shape[1],
            pixels.shape[0],
            calibration.map_threshold,
        ],
    )
    drawn = np.array(drawn).reshape(*pixels.shape[:2], 4)
    assert (drawn[..., 3] == 255).all()
    expected = overlay(pixels, found)
    assert (np.all(expected == (0, 229, 255), axis=2)).any()
    assert np.abs(drawn[..., :3] - expected).max() <= 1


def test_thresholds_are_pythons(visit, rng):
    """Threshold, pixel threshold, verdict and sentence, for many calibrations and rates: equal, not close."""
    cases, expected = [], []
    verdicts = set()
    for n in (4, 5, 15, 24, 63, 200):
        scores = tuple(np.sort(rng.normal(3, 1, n)).tolist())
        for n_folds, hand, ratio in ((0, None, 1e-4), (5, None, 0.0), (0, scores[n // 2], 1e-4)):
            kept = {
                "scores": scores,
                "map_maxima": tuple(np.sort(rng.normal(-2, 3, n)).tolist()),
                "n_folds": n_folds,
                "hand_threshold": hand,
                "rounding_ratio": ratio,
            }
            for rate in (*RATES, float(rng.uniform(0.001, 0.6)), 0.00125):
                calibration = Calibration(map_median=0.0, false_alarm_rate=rate, **kept)
                for moved in (calibration, calibration.with_rate(0.2)):
                    score = float(rng.choice(scores))
                    expected.append(
                        [
                            moved.threshold,
                            moved.map_threshold,
                            moved.statement,
                            moved.p_value(score),
                            moved.p_value(9.0),
                            *(verdict_of(s, moved.threshold, moved.p_value(s)).value for s in (score, scores[-1])),
                        ]
                    )
                    verdicts.update(expected[-1][-2:])
                    cases.append([kept | {"false_alarm_rate": rate}, None if moved is calibration else 0.2, score])
    found = visit.evaluate(
        """async (cases) => {
            const { Calibration } = await import("./calibration.js");
            return cases.map(([kept, rate, score]) => {
                const first = new Calibration(kept);
                const c = rate ? first.withRate(rate) : first;
                const verdicts = [score, c.scores.at(-1)].map((each) => c.verdict(each));
                return [c.threshold, c.mapThreshold, c.statement, c.pValue(score), c.pValue(9), ...verdicts];
            });
        }""",
        cases,
    )
    assert found == expected
    assert verdicts == {"good", "borderline", "suspected"}


def test_borderline_is_said_in_amber_and_by_its_sign(browser, built, detector, specks, tmp_path):
    """Of a picture that is below a threshold set by hand, and more unusual than all good ones."""
    contents = sorted((item.path.read_bytes() for item in specks.test), key=lambda each: detector.predict(each).score)
    files = {f"{i}.png": content for i, content in enumerate(contents[-3:])}
    scores = {name: detector.predict(content).score for name, content in files.items()}
    calibration = detector.fitted_.calibration.with_threshold(1.01 * scores["1.png"])
    said = {name: verdict_of(s, calibration.threshold, calibration.p_value(s)) for name, s in scores.items()}
    assert set(said.values()) == {"borderline", "suspected"}
    folder = shutil.copytree(built.folder, tmp_path / "site", copy_function=_linked)
    settings = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    settings["calibration"]["hand_threshold"] = calibration.threshold
    (folder / "model.json").unlink()
    (folder / "model.json").write_text(json.dumps(settings), encoding="utf-8")
    with (
        served(folder) as (url, _),
        visiting(browser, url, viewport={"width": 390, "height": 844}, color_scheme="dark") as page,
    ):
        give(page, files)
        assert {row["picture"]: row["verdict"] for row in table(page)} == {n: in_csv(v) for n, v in said.items()}
        n = list(said.values()).count("borderline")
        assert f"{len(said) - n} of {len(said)} anomalous · {n} borderline" in page.inner_text("#summary")
        page.locator(".row", has_text="Borderline").first.click()
        verdict = page.locator("#verdict")
        expect(verdict.locator("strong")).to_have_text("? Borderline")
        assert verdict.evaluate("e => getComputedStyle(e).backgroundColor") == "rgb(180, 83, 9)"
        expect(page.locator("#notices")).to_contain_text("at most 5 % of good pictures score as high")
        expect(page.locator("#picture")).to_have_attribute("aria-label", re.compile(r"heatmap\. Borderline\."))
        assert page.evaluate(LEAST_CONTRAST) >= 4.5


def test_moved_threshold_judges_everything_again(visit, detector, example):
    files = {f"{item.path.parent.name} {item.path.name}": item.path.read_bytes() for item in example.test}
    give(visit, files)
    before = {row["picture"]: row["verdict"] for row in table(visit)}
    scores = {row["picture"]: float(row["score"]) for row in table(visit)}
    n_positions = int(visit.get_attribute("#rate", "max")) + 1
    changed = False
    for position in range(0, n_positions, 4):
        set_rate(visit, position)
        rate = float(visit.inner_text("#rate-text").rstrip("%")) / 100
        calibration = detector.fitted_.calibration.with_rate(rate)
        assert visit.inner_text("#statement") == calibration.statement
        assert float(visit.get_attribute("#figures", "data-threshold")) == calibration.threshold
        assert float(visit.get_attribute("#figures", "data-map-threshold")) == calibration.map_threshold
        rows = table(visit)
        for row in rows:
            assert float(row["threshold"]) == calibration.threshold
            score = scores[row["picture"]]
            said = verdict_of(score, calibration.threshold, calibration.p_value(score))
            assert row["verdict"] == in_csv(said)
        n = sum(row["verdict"] == "anomalous" for row in rows)
        assert visit.locator(".row .said.alarm").count() == n
        changed |= before != {row["picture"]: row["verdict"] for row in rows}
    assert changed
    visit.click("#as-fitted")
    assert float(visit.get_attribute("#figures", "data-threshold")) == detector.fitted_.calibration.threshold


def test_pictures_that_cannot_be_read_are_listed(visit):
    whole = encode(gradient(90, 70), "JPEG")
    files = {
        "good.png": encode(gradient()),
        "half.jpg": whole[: len(whole) // 2],
        "half.png": encode(gradient())[:-60],
        "empty.png": b"",
        "words.png": b"This is no picture.",
        "scan.tif": encode(gradient(), "TIFF"),
        "scan.pgm": encode(gradient().convert("L"), "PPM"),
        "tiny.png": encode(gradient(12, 40)),
        "=cmyk, print.jpg": encode(gradient().convert("CMYK"), "JPEG"),
    }
    give(visit, files)
    rows = {row["picture"]: row for row in table(visit)}
    assert rows.keys() == files.keys()
    reasons = {name: row["notes"] for name, row in rows.items() if row["verdict"] == "not scored"}
    assert reasons.keys() == files.keys() - {"good.png"}
    for name, word in {
        "half.jpg": "damaged or incomplete",
        "half.png": "damaged or incomplete",
        "empty.png": "0 bytes",
        "words.png": "not a picture",
        "scan.tif": "TIFF file, which a browser cannot read. Convert it to PNG",
        "scan.pgm": "PGM",
        "tiny.png": "12×40",
        "=cmyk, print.jpg": "CMYK",
    }.items():
        assert word in reasons[name]
    assert "8 not scored" in visit.inner_text("#summary")
    assert "TIFF" in visit.inner_text(".row:has-text('scan.tif')")
    visit.click(".row:has-text('scan.tif')")
    assert visit.inner_text("#verdict strong") == "Not scored"
    assert "Convert it" in visit.inner_text("#verdict")
    assert not visit.is_visible("#picture")


def test_a_folder_says_what_it_passed_over(visit, tmp_path):
    (tmp_path / "parts" / "inner").mkdir(parents=True)
    for name, content in {
        "a.png": encode(gradient()),
        "inner/b.jpg": encode(gradient(), "JPEG"),
        "notes.txt": b"x",
        ".hidden": b"",
    }.items():
        (tmp_path / "parts" / name).write_bytes(content)
    visit.set_input_files("#folder", tmp_path / "parts")
    scored(visit, 2)
    assert sorted(row["picture"] for row in table(visit)) == ["a.png", "inner/b.jpg"]
    assert "1 file is not a picture by its name and was passed over: notes.txt." in visit.inner_text("#passed-over")


BY_EVENT = """([kind, bytes]) => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([new Uint8Array(bytes)], "image.png", { type: "image/png" }));
    const [Kind, field] = kind === "paste" ? [ClipboardEvent, "clipboardData"] : [DragEvent, "dataTransfer"];
    return document.body.dispatchEvent(new Kind(kind, { [field]: transfer, bubbles: true, cancelable: true }));
}"""


def test_dropped_and_pasted_pictures_are_scored(visit):
    for event in ("drop", "paste"):
        visit.evaluate(BY_EVENT, [event, list(encode(gradient()))])
    scored(visit, 2)
    assert sorted(row["picture"] for row in table(visit))[0] == "image.png"
    assert "pasted" in sorted(row["picture"] for row in table(visit))[1]


BEFORE_MAIN = """
const give = %s;
document.addEventListener("readystatechange", () => {
  if (document.readyState !== "interactive") return; // the page is there, and no module has run
  const bytes = %s;
  self.wouldLeave = ["dragover", "drop"].filter((kind) => give([kind, bytes]));
  give(["paste", bytes]);
  const files = document.getElementById("files");
  files.addEventListener("click", (event) => {
    event.preventDefault();
    const transfer = new DataTransfer();
    transfer.items.add(new File([new Uint8Array(bytes)], "chosen.png"));
    files.files = transfer.files;
    files.dispatchEvent(new Event("change", { bubbles: true }));
  });
  document.getElementById("choose").click();
});
"""


def test_pictures_that_come_before_the_page_has_started_wait(browser, address):
    script = BEFORE_MAIN % (BY_EVENT, list(encode(gradient())))
    with visiting(browser, address, before=lambda page: page.add_init_script(script)) as page:
        assert page.evaluate("wouldLeave") == []
        scored(page, 3)
        assert {row["picture"] for row in table(page)} == {"image.png", "pasted 1.png", "chosen.png"}


@pytest.mark.parametrize(
    "answer",
    [lambda route: route.abort(), lambda route: route.fulfill(status=404), lambda route: route.fulfill(body="<p>")],
    ids=["no_network", "not_there", "not_settings"],
)
def test_a_page_without_its_settings_says_so(browser, address, answer):
    waits = {"state": "refused", "before": lambda page: page.route("**/model.json", answer)}
    with visiting(browser, address, **waits) as page:
        assert page.inner_text("#trouble").startswith("The model could not be loaded (")
        assert page.is_disabled("#choose")
        assert not page.is_visible("#loading")


def test_camera_is_scored_frame_by_frame(visit):
    visit.click("#camera")
    expect(visit.locator("#speed")).to_have_text(re.compile(r"^[1-9].* camera frames a second"), timeout=WAIT_MS)
    assert visit.inner_text("#verdict span") == "Camera"
    visit.click("#keep")
    scored(visit, 1)
    assert [row["picture"].split()[0] for row in table(visit)] == ["camera"]
    assert not visit.is_visible("#stop-camera")


FAILS_TO_PLAY_ONCE = """
self.asked = [];
const ask = MediaDevices.prototype.getUserMedia;
MediaDevices.prototype.getUserMedia = function (...given) {
  asked.push(ask.apply(this, given));
  return asked.at(-1);
};
const play = HTMLMediaElement.prototype.play;
HTMLMediaElement.prototype.play = async function () {
  HTMLMediaElement.prototype.play = play;
  throw new Error("no picture");
};
"""


def test_a_camera_that_is_off_has_no_stream(browser, address):
    """Neither where it did not start, which can be tried again, nor where it was pressed twice."""
    tracks = "Promise.all(asked).then((all) => all.flatMap((each) => each.getTracks()).map((one) => one.readyState))"
    with visiting(browser, address, before=lambda page: page.add_init_script(FAILS_TO_PLAY_ONCE)) as page:
        page.click("#camera")
        expect(page.locator("#trouble")).to_have_text("The camera does not start (no picture).")
        assert page.evaluate(tracks) == ["ended"]
        page.eval_on_selector("#camera", "(button) => { button.click(); button.click(); }")
        page.wait_for_selector("body[data-camera=on]", timeout=WAIT_MS)
        assert page.evaluate(tracks) == ["ended", "live"]
        assert not page.is_visible("#trouble")
        page.click("#stop-camera")
        assert page.evaluate(tracks) == ["ended", "ended"]
        assert page.is_enabled("#camera")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone(browser, address, specks, scheme):
    """No horizontal scroll; the result is what is seen first; words and colours can be told apart."""
    with visiting(browser, address, viewport={"width": 390, "height": 844}, color_scheme=scheme) as page:
        fits = "document.documentElement.scrollWidth <= window.innerWidth"
        assert page.evaluate(fits)
        give(page, {f"{'a-long-name-' * 9}{i}.png": item.path.read_bytes() for i, item in enumerate(specks.test[:3])})
        give(page, {"words.png": b"no picture"})
        assert page.evaluate(fits)
        for selector in ("#verdict", "#picture"):
            box = page.locator(selector).bounding_box()
            assert 0 <= box["y"] <= 844 - box["height"], selector
        page.locator(".row").last.click()
        assert "Not scored" in page.inner_text("#verdict")
        assert page.evaluate(fits)
        assert page.get_attribute("#verdict", "aria-live") == "polite"
        assert page.evaluate(LEAST_CONTRAST) >= 4.5


LEAST_CONTRAST = """() => {
    const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    const rgba = (colour) => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
        .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const ground = (element) => {
        for (let at = element; at; at = at.parentElement) {
            const colour = rgba(getComputedStyle(at).backgroundColor);
            if (colour[3] === 255) return colour;
        }
        return [255, 255, 255];
    };
    const found = [];
    for (const element of document.querySelectorAll("body *")) {
        const hasText = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
        if (!hasText || !element.checkVisibility() || element.closest(":disabled, noscript")) continue;
        const [a, b] = [light(rgba(getComputedStyle(element).color)), light(ground(element))];
        found.push((Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
    }
    return Math.min(...found);
}"""


def test_keyboard_and_labels(visit, specks):
    """Every control has a name, and the keyboard reaches it."""
    give(visit, {f"{i}.png": item.path.read_bytes() for i, item in enumerate(specks.test[:2])})
    unnamed = visit.evaluate(
        """() => [...document.querySelectorAll("button, input:not([hidden]), canvas, [role=listbox], progress")]
            .filter((e) => !(e.getAttribute("aria-label") || e.textContent.trim() || e.labels?.length))
            .map((e) => e.id)"""
    )
    assert unnamed == []
    visit.evaluate("document.activeElement.blur()")
    reached = []
    for _ in range(14):
        visit.keyboard.press("Tab")
        reached.append(visit.evaluate("document.activeElement.id"))
    assert {"picture", "next", "rate", "opacity", "contour", "choose", "camera", "list", "csv", "clear"} <= set(reached)
    visit.focus("#picture")
    visit.keyboard.press("ArrowRight")
    expect(visit.locator("#place")).to_have_text("2 of 2")


def test_a_worker_that_breaks_is_replaced(visit, detector, specks):
    """What broke it has its reason, and the pictures after it are scored."""
    content = specks.test[0].path.read_bytes()
    reason, score, n_started = visit.evaluate(
        """async (bytes) => {
            const { Scorer } = await import("./scorer.js");
            const settings = await (await fetch("model.json")).json();
            let nStarted = 0;
            const on = { progress() {}, ready() { nStarted += 1; }, engine() {}, refused() {} };
            const scorer = new Scorer(settings, on, false);
            const broken = scorer.frame(new ArrayBuffer(8)).catch((error) => error.message); // no picture at all
            const after = scorer.score(new Blob([new Uint8Array(bytes)]));
            return [await broken, (await after).score, nStarted];
        }""",
        list(content),
    )
    assert reason.startswith("could not be scored")
    assert score == pytest.approx(detector.predict(content).score, rel=1e-3)
    assert n_started == 2


def test_works_without_its_server(browser, built, detector, specks):
    content = specks.test[0].path.read_bytes()
    with served(built.folder) as (url, server), visiting(browser, url) as page:
        page.wait_for_selector("body[data-offline=ready]", timeout=WAIT_MS)
        server.shutdown()
        server.server_close()
        page.reload()
        page.wait_for_selector("body[data-state=ready]", timeout=WAIT_MS)
        give(page, {"a.png": content})
        assert float(table(page)[0]["score"]) == pytest.approx(detector.predict(content).score, rel=1e-3)


def renew(folder):
    """The host has a newer page now."""
    for name, old, new in (
        ("model.json", '"name": "specks"', '"name": "newer"'),
        ("service-worker.js", "DIGEST = ", "DIGEST = 1 + "),
    ):
        text = (folder / name).read_text(encoding="utf-8")
        assert old in text
        (folder / name).unlink()
        (folder / name).write_text(text.replace(old, new, 1), encoding="utf-8")


# Playwright's own wait for a condition is text that the page's policy does not let it run.
CONTROLLED = """new Promise((done) => {
  if (navigator.serviceWorker.controller) done();
  else navigator.serviceWorker.addEventListener("controllerchange", () => done(), { once: true });
})"""

LOADS_UNTIL_REPLACED = """
sessionStorage.loads = Number(sessionStorage.loads ?? 0) + 1;
if (sessionStorage.loads === "1") {
  const post = Worker.prototype.postMessage;
  const replaced = new Promise((done) => navigator.serviceWorker.addEventListener("controllerchange", done));
  Worker.prototype.postMessage = function (...given) {
    if (given[0].kind !== "start") return post.apply(this, given);
    replaced.then(() => setTimeout(() => post.apply(this, given), 500));
  };
  navigator.serviceWorker.getRegistration().then((registration) => registration.update());
}
"""


@pytest.mark.parametrize("still_loads", [False, True], ids=["when_ready", "while_it_loads"])
def test_a_newer_page_replaces_the_one_that_was_kept(browser, built, tmp_path, still_loads):
    """Also where the newer one is there before the older one's model is, as on a slow or busy machine."""
    folder = shutil.copytree(built.folder, tmp_path / "site", copy_function=_linked)
    with served(folder) as (url, _), visiting(browser, url) as page:
        page.wait_for_selector("body[data-offline=ready]", timeout=WAIT_MS)
        assert page.inner_text("#title") == "specks"
        renew(folder)
        if still_loads:
            page.add_init_script(LOADS_UNTIL_REPLACED)
        page.reload()
        expect(page.locator("#title")).to_have_text("newer", timeout=WAIT_MS)
        page.wait_for_selector("body[data-state=ready]", timeout=WAIT_MS)


def test_a_newer_page_is_offered_where_one_is_in_use(browser, built, tmp_path, specks):
    """On the first visit too; what was scored stays until its user wants the newer one."""
    folder = shutil.copytree(built.folder, tmp_path / "site", copy_function=_linked)
    with served(folder) as (url, _), visiting(browser, url) as page:
        page.wait_for_selector("body[data-offline=ready]", timeout=WAIT_MS)
        page.evaluate(CONTROLLED)
        give(page, {"a.png": specks.test[0].path.read_bytes()})
        renew(folder)
        page.evaluate("navigator.serviceWorker.getRegistration().then((registration) => registration.update())")
        expect(page.locator("#newer")).to_be_visible(timeout=WAIT_MS)
        assert [row["picture"] for row in table(page)] == ["a.png"]
        page.click("#reload")
        expect(page.locator("#title")).to_have_text("newer", timeout=WAIT_MS)


# Again and again: an update that is asked for while another one fails is taken for the same.
UPDATES = """navigator.serviceWorker.getRegistration().then((registration) => {
  setInterval(() => registration.update().catch(() => {}), 500);
})"""


def test_a_page_is_of_one_version(browser, built, tmp_path):
    """While a newer one is not all there, the kept one is shown; what is no page of ours is not hidden by it."""
    folder = shutil.copytree(built.folder, tmp_path / "site", copy_function=_linked)
    index, missing = folder / "index.html", folder / "list.js"
    with served(folder) as (url, _), visiting(browser, url) as page:
        page.evaluate(CONTROLLED)
        renew(folder)
        newer = index.read_text(encoding="utf-8").replace("Drop pictures", "Newer: drop pictures")
        index.unlink()
        index.write_text(newer, encoding="utf-8")
        missing.rename(folder / "not-there-yet.js")
        page.reload()
        page.wait_for_selector("body[data-state=ready]", timeout=WAIT_MS)
        assert page.inner_text("#title") == "specks"
        assert page.inner_text(".big").startswith("Drop pictures")
        (folder / "not-there-yet.js").rename(missing)
        page.evaluate(UPDATES)
        expect(page.locator(".big")).to_contain_text("Newer: drop pictures", timeout=WAIT_MS)
        page.wait_for_selector("body[data-state=ready]", timeout=WAIT_MS)
        assert page.inner_text("#title") == "newer"
        index.write_text("<p>Something else</p>", encoding="utf-8")
        page.reload()
        assert page.inner_text("body") == "Something else"


def scoring_otherwise(built, tmp_path):
    """A page whose own picture is said to score what it does not score."""
    folder = shutil.copytree(built.folder, tmp_path / "site", copy_function=_linked)
    settings = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    settings["probe"]["score"] *= 1.01
    (folder / "model.json").unlink()
    (folder / "model.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def test_a_browser_that_scores_otherwise_judges_nothing(browser, built, tmp_path):
    """The model's own picture must score what it scored in PyTorch."""
    folder = scoring_otherwise(built, tmp_path)
    with served(folder) as (url, _), visiting(browser, url, state="refused") as page:
        assert "judges nothing" in page.inner_text("#trouble")
        assert page.is_disabled("#choose")
        assert page.is_disabled("#camera")
        page.set_input_files("#files", [{"name": "a.png", "mimeType": "", "buffer": encode(gradient())}])
        page.wait_for_timeout(300)
        assert page.locator(".row").count() == 0


STARTS_ONCE_ASKED = """
document.addEventListener("DOMContentLoaded", () => { document.body.dataset.state = "waits"; });
const post = Worker.prototype.postMessage;
const asked = new Promise((done) => { self.startNow = done; });
Worker.prototype.postMessage = function (...given) {
  if (given[0].kind === "start") asked.then(() => post.apply(this, given));
  else post.apply(this, given);
};
"""


def test_pictures_that_wait_for_a_model_that_is_refused_are_named(browser, built, tmp_path):
    folder = scoring_otherwise(built, tmp_path)
    names = ["a.png", "b.png", "c.png"]
    waits = {"state": "waits", "before": lambda page: page.add_init_script(STARTS_ONCE_ASKED)}
    with served(folder) as (url, _), visiting(browser, url, **waits) as page:
        expect(page.locator("#version")).not_to_be_empty(timeout=WAIT_MS)
        page.set_input_files("#files", [{"name": n, "mimeType": "", "buffer": encode(gradient())} for n in names])
        page.wait_for_selector("body[data-busy=true]", timeout=WAIT_MS)
        page.evaluate("startNow()")
        page.wait_for_selector("body[data-state=refused]", timeout=WAIT_MS)
        scored(page, 3)
        assert {row["picture"]: row["verdict"] for row in table(page)} == dict.fromkeys(names, "not scored")
        assert "3 not scored" in page.inner_text("#summary")
        assert "judges nothing here" in page.inner_text("#verdict")


BREAKS = """
let isBroken = false;
const released = new Promise((done) => { self.release = done; });
const post = Worker.prototype.postMessage;
Worker.prototype.postMessage = function (message, ...given) {
  if (isBroken) released.then(() => post.call(this, changed(message), ...given));
  else {
    isBroken = message.file?.name === "breaks.png";
    post.call(this, isBroken ? { ...message, kind: "frame" } : message, ...given); // a frame without a bitmap
  }
};
"""
RESTARTS = {
    "with_another_model": """
const changed = (message) => {
  if (message.kind !== "start") return message;
  const { probe, ...settings } = message.settings;
  return { ...message, settings: { ...settings, probe: { ...probe, score: 1.01 * probe.score } } };
};
""",
    "without_its_script": """
const changed = (message) => message;
self.Worker = class extends Worker {
  constructor(address, options) { super(isBroken ? "gone.js" : address, options); }
};
""",
}


@pytest.mark.parametrize("restart", RESTARTS)
def test_a_worker_that_cannot_be_replaced_leaves_nothing_open(browser, address, specks, restart):
    """The picture in flight has its reason, and no map is drawn by a model other than the one that scored."""
    content = specks.test[0].path.read_bytes()
    with visiting(browser, address, before=lambda page: page.add_init_script(BREAKS + RESTARTS[restart])) as page:
        give(page, {f"{i}.png": content for i in range(14)})
        files = [{"name": name, "mimeType": "", "buffer": content} for name in ("breaks.png", "later.png")]
        page.set_input_files("#files", files)
        expect(page.locator(".row")).to_have_count(15)
        page.evaluate("release()")
        page.wait_for_selector("body[data-state=refused]", timeout=WAIT_MS)
        scored(page, 16)
        reasons = {row["picture"]: row["notes"] for row in table(page) if row["verdict"] == "not scored"}
        assert reasons.keys() == {"breaks.png", "later.png"}
        assert "judges nothing here" in reasons["later.png"]
        lost = []
        for row in page.locator(".row[data-score]").all():
            row.click()
            if "judges nothing here" in page.inner_text("#verdict"):
                lost.append(row)
                assert not page.is_visible("#picture")
        assert len(lost) == 14 - 12  # of the others what is drawn was kept


def test_a_refusal_ends_the_camera_and_stays_said(browser, address):
    """Where it was started while a worker that broke was replaced."""
    script = BREAKS + RESTARTS["with_another_model"]
    with visiting(browser, address, before=lambda page: page.add_init_script(script)) as page:
        give(page, {"breaks.png": encode(gradient())})
        page.click("#camera")
        page.wait_for_selector("body[data-camera=on]", timeout=WAIT_MS)
        page.evaluate("release()")
        page.wait_for_selector("body[data-camera=off]", timeout=WAIT_MS)
        assert "test picture scores" in page.inner_text("#trouble")
        assert page.is_disabled("#camera")


def test_nothing_waits_for_webgpu(browser, address):
    """A browser that does not say whether it has an adapter until it is asked to."""
    adapter = "new Promise((done) => { self.answer = done; })"
    promise = f"Object.defineProperty(navigator, 'gpu', {{ value: {{ requestAdapter: () => {adapter} }} }})"
    with visiting(browser, address, before=lambda page: page.add_init_script(promise)) as page:
        assert "WebGPU has not answered" in page.inner_text("#why")
        give(page, {"a.png": encode(gradient())})
        assert page.locator(".row[data-score]").count() == 1
        page.evaluate("answer({})")
        expect(page.locator("#why")).to_contain_text("WebGPU does not run", timeout=WAIT_MS)


def test_webgpu_that_does_not_work_is_not_used(browser, address, detector, specks):
    """A browser that promises an adapter, and has none where the model runs."""
    promise = "Object.defineProperty(navigator, 'gpu', { value: { requestAdapter: async () => ({}) } })"
    with visiting(browser, address, before=lambda page: page.add_init_script(promise)) as page:
        expect(page.locator("#why")).to_contain_text("WebGPU does not run", timeout=WAIT_MS)
        assert page.inner_text("#engine").startswith("WebAssembly")
        content = specks.test[0].path.read_bytes()
        give(page, {"a.png": content})
        assert float(table(page)[0]["score"]) == pytest.approx(detector.predict(content).score, rel=1e-3)


@pytest.mark.parametrize("is_whole", [True, False], ids=["pinned", "changed"])
def test_runtime_from_the_network_must_be_the_pinned_one(browser, built, onnx_file, tmp_path, monkeypatch, is_whole):
    folder = shutil.copytree(built.folder / building.RUNTIME_FOLDER, tmp_path / "runtime", copy_function=_linked)
    if not is_whole:
        changed = folder / "ort-wasm-simd-threaded.mjs"
        content = changed.read_bytes()
        changed.unlink()
        changed.write_bytes(content + b" ")
    with served(folder) as (cdn, _):
        monkeypatch.setattr(building, "CDN", cdn)
        page = build_page(onnx_file, tmp_path / "site", use_cdn=True)
        assert not (page.folder / building.RUNTIME_FOLDER).exists()
        assert any("network once" in notice for notice in page.notices)
        with (
            served(page.folder) as (url, _),
            visiting(browser, url, state="ready" if is_whole else "refused") as visitor,
        ):
            assert "loaded once from" in visitor.inner_text("footer")
            if is_whole:
                give(visitor, {"a.png": encode(gradient())})
                assert visitor.locator(".row[data-score]").count() == 1


def test_folder_is_a_static_space(built):
    card = RepoCard((built.folder / "README.md").read_text(encoding="utf-8"), ignore_metadata_errors=False)
    data = card.data.to_dict()
    assert (data["sdk"], data["app_file"], data["license"]) == ("static", "index.html", "apache-2.0")
    assert "admodels" in data["tags"]
    assert data["custom_headers"] == building.HEADERS
    assert "terms of the pictures it learned from" in built.notices[0]


def test_page_replaces_only_an_earlier_page(built, onnx_file, tmp_path):
    assets, site = built.folder / building.RUNTIME_FOLDER, tmp_path / "site"
    first = build_page(onnx_file, site, assets=assets)
    assert first.n_files == built.n_files == sum(path.is_file() for path in site.rglob("*"))
    assert first.size_mib == pytest.approx(built.size_mib)
    (site / "style.css").write_text("changed", encoding="utf-8")
    build_page(onnx_file, site, assets=assets)
    assert (site / "style.css").read_text(encoding="utf-8") != "changed"
    (site / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match=r"more than an earlier page \(mine.txt\)"):
        build_page(onnx_file, site, assets=assets)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "model.json").write_text('{"format": "something else"}', encoding="utf-8")
    with pytest.raises(OutputError, match="is not an earlier page"):
        build_page(onnx_file, foreign, assets=assets)
    with pytest.raises(OutputError, match="is a file"):
        build_page(onnx_file, foreign / "model.json", assets=assets)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["foreign", "site"]  # nothing half made is left


def test_runtime_that_cannot_be_had(built, onnx_file, tmp_path, monkeypatch):
    with pytest.raises(OptionError, match="both given"):
        build_page(onnx_file, tmp_path / "site", assets=tmp_path, use_cdn=True)
    with pytest.raises(ExportError, match=r"onnxruntime-web.*dist"):
        build_page(onnx_file, tmp_path / "site", assets=tmp_path)
    changed = shutil.copytree(built.folder / building.RUNTIME_FOLDER, tmp_path / "dist", copy_function=_linked)
    (changed / "ort.wasm.min.mjs").unlink()
    (changed / "ort.wasm.min.mjs").write_text("export {}", encoding="utf-8")
    with pytest.raises(ExportError, match=r"ort.wasm.min.mjs.*is not that of onnxruntime-web 1.30.0"):
        build_page(onnx_file, tmp_path / "site", assets=tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ExportError, match=r"npm is not installed.*--assets.*--cdn"):
        build_page(onnx_file, tmp_path / "site")
    (tmp_path / "text.onnx").write_text("text", encoding="utf-8")
    with pytest.raises(ExportError, match="not an ONNX file"):
        build_page(tmp_path / "text.onnx", tmp_path / "site", use_cdn=True)
    assert not (tmp_path / "site").exists()


def _linked(source, target):
    """A copy without its bytes."""
    Path(target).hardlink_to(source)
