"""The main job in a real browser, on a wide and on a narrow window."""

import re

import pytest
from playwright.sync_api import expect

import admodels
from demo.state.server import device_line

LONG = 60_000


def make_it_small(page):
    page.get_by_role("button", name=re.compile("^Options")).click()
    page.get_by_label("image size").fill("64")
    page.get_by_label("image size").press("Tab")


def fit_the_example(page):
    """Fit the default method on the example with specks, small."""
    page.get_by_role("button", name="Try: Paper with specks").click()
    expect(page.get_by_text("24 good pictures")).to_be_visible(timeout=LONG)
    make_it_small(page)
    expect(page.get_by_text("peak memory").first).to_be_visible(timeout=LONG)
    page.get_by_role("button", name="Train", exact=True).click()
    expect(page.get_by_text("learned from")).to_be_visible(timeout=LONG)


def choose_method(page, title):
    """Choose a method by its name."""
    page.get_by_role("radio", name=re.compile("^Another method")).check()
    page.get_by_label("Method", exact=True).click()
    page.get_by_role("option", name=title).click()


def shown(page, label):
    """The control of that label in the tab that is open."""
    return page.get_by_label(label).filter(visible=True)


def test_fit_inspect_and_keep_a_model(page, request):
    name = f"browser-{request.node.callspec.id}"
    expect(page.get_by_text(device_line())).to_be_visible(timeout=LONG)
    fit_the_example(page)
    expect(page.get_by_text("24 good pictures kept aside, each")).to_be_visible()

    page.get_by_role("tab", name="Inspect").click()
    expect(page.get_by_text("not saved yet").first).to_be_visible(timeout=LONG)
    page.get_by_role("button", name="Defective: Paper with specks").click()
    expect(page.locator("#verdict")).to_contain_text("Defect suspected", timeout=LONG)
    expect(page.locator("#verdict")).to_contain_text("more unusual than")
    expect(page.get_by_text("FPS in this upload")).to_be_visible()
    page.get_by_role("button", name="Measure speed").click()
    expect(page.get_by_text("bytes to overlay: FPS")).to_be_visible(timeout=LONG)
    expect(page.get_by_text("batch 8", exact=True)).to_be_visible()
    expect(page.get_by_text("of it post-process")).to_be_visible()

    page.get_by_role("tab", name="Models").click()
    page.get_by_label("Name", exact=True).first.fill(name)
    page.get_by_role("button", name="Save", exact=True).click()
    card = page.locator("ul.cards li", has_text=name)
    expect(card).to_contain_text("in use", timeout=LONG)

    page.get_by_label("New name").fill(f"{name}-b")
    page.get_by_role("button", name="Rename").click()
    expect(page.locator("ul.cards li", has_text=f"{name}-b")).to_be_visible(timeout=LONG)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download", exact=True).click()
    assert download.value.suggested_filename == f"{name}-b.zip"
    page.get_by_role("button", name="Delete…").click()
    page.get_by_role("button", name="permanently").click()
    expect(page.locator("ul.cards li", has_text=f"{name}-b")).to_have_count(0, timeout=LONG)


def test_an_example_is_seen_at_work_by_one_click(page):
    page.get_by_role("button", name="See it work: Paper with specks").click()
    expect(page.locator("#found")).to_contain_text("of 8 suspected", timeout=LONG)
    expect(page.locator("#verdict")).to_contain_text("Defect suspected")
    # Nothing is wrong, so nothing warns.
    expect(page.locator("p.warning, p.error").filter(visible=True)).to_have_count(0)
    captions = page.locator("#inspected .caption-label")
    expect(captions).to_have_count(8)
    scores = [float(caption.split()[1]) for caption in captions.all_inner_texts()]
    assert scores == sorted(scores, reverse=True)
    shown_score = float(re.search(r"score\s*([\d.]+)", page.locator("#verdict").inner_text()).group(1))
    assert shown_score == pytest.approx(scores[0], rel=0.005)
    expect(page.locator("#chip")).to_contain_text("FPS at batch 1")
    upload = page.get_by_text("Pictures to inspect, or one zip").filter(visible=True)
    heights = [page.locator(which).bounding_box()["y"] for which in ("#found", "#verdict", "#slider", "#inspected")]
    heights.append(upload.bounding_box()["y"])
    if page.viewport_size["width"] < 700:
        assert heights == sorted(heights)
        assert heights[2] < 900  # the heatmap begins on the first screen
    else:
        assert heights[0] < min(heights[1:3])
        assert max(heights[1:3]) < heights[3] < heights[4]
        assert heights[2] < 400
    # The chart of the fit, drawn while another tab was open, fits its column.
    page.get_by_role("tab", name="Train").click()
    expect(page.get_by_text("learned from")).to_be_visible()
    plot = page.locator(".js-plotly-plot").filter(visible=True).first
    expect(plot).to_be_visible(timeout=LONG)
    page.wait_for_function(
        "plot => plot.querySelector('svg.main-svg').clientWidth <= plot.clientWidth", arg=plot.element_handle()
    )


def test_a_defective_picture_among_the_good_ones_is_pointed_at_and_left_out(page, normals, specks):
    page.locator("input[type=file]").first.set_input_files([*normals[:14], specks.test[-2].path])
    expect(page.get_by_text("15 good pictures")).to_be_visible(timeout=LONG)
    page.get_by_role("button", name="Train", exact=True).click()
    expect(page.locator("#apart")).to_contain_text(f"{specks.test[-2].path.name} stands apart", timeout=LONG)
    reviewed = page.locator("#reviewed .caption-label")
    expect(reviewed.first).to_contain_text(specks.test[-2].path.name)
    expect(reviewed).to_have_count(5)
    page.get_by_role("button", name="Leave out and train again").click()
    expect(page.get_by_text("14 good pictures from your upload; 1 left out")).to_be_visible(timeout=LONG)
    expect(page.locator("#apart")).to_be_hidden(timeout=LONG)
    expect(page.locator("#fit-result")).to_contain_text("14 pictures", timeout=LONG)
    expect(page.get_by_role("button", name="Leave out and train again")).to_be_hidden()


def test_before_the_first_picture_nothing_but_what_to_do_is_shown(page):
    page.get_by_role("tab", name="Inspect").click()
    expect(page.get_by_text("Drop pictures below")).to_be_visible(timeout=LONG)
    for hidden in ("#verdict", "#slider", "#inspected"):
        expect(page.locator(hidden)).to_be_hidden()


def test_a_model_is_evaluated_and_its_threshold_moved(page):
    fit_the_example(page)
    page.get_by_role("tab", name="Evaluate").click()
    page.get_by_role("button", name="Test set: Paper with specks").click()
    result = page.locator("#evaluation")
    expect(result).to_contain_text("12 good, 8 defective", timeout=LONG)
    expect(result).to_contain_text("chosen on the test labels")
    expect(result).to_contain_text("1 % takes 99 good pictures kept aside; there are 24, enough for 4 % at best.")
    expect(result.locator("table.figures tr")).to_have_count(5)
    expect(page.locator(".js-plotly-plot:visible")).to_have_count(3, timeout=LONG)
    expect(page.get_by_text("noise, σ 2 %")).to_be_visible()
    shown(page, "by hand").check()
    expect(result).to_contain_text("Set by hand", timeout=LONG)
    shown(page, "Score above which").fill("1000000")
    shown(page, "Score above which").press("Tab")
    expect(result).to_contain_text("8 of 8: 100%", timeout=LONG)
    expect(page.get_by_text(re.compile("^missed: "))).to_have_count(8, timeout=LONG)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the report (HTML)").click()
    assert download.value.suggested_filename == "evaluation.html"
    expect(result).to_contain_text("0 of 8 defective pictures found, 0 of 12 good pictures alarm")
    page.get_by_role("button", name="Use that threshold").click()
    expect(result).to_contain_text("8 of 8 defective pictures found", timeout=LONG)
    expect(page.get_by_role("button", name="Use that threshold")).to_be_hidden()
    shown(page, "Score above which").fill("1000000")
    shown(page, "Score above which").press("Tab")
    expect(result).to_contain_text("0 of 8 defective pictures found", timeout=LONG)
    page.get_by_role("tab", name="Inspect").click()
    page.get_by_role("button", name="Defective: Paper with specks").click()
    expect(page.locator("#verdict")).to_contain_text("Borderline", timeout=LONG)
    expect(page.locator("#found")).to_contain_text("None of 8 suspected, 8 borderline")
    expect(page.locator("#chip .state")).to_have_text("threshold changed, not saved")
    expect(page.get_by_text("Last evaluation, 8 defective and 12 good pictures").first).to_be_visible()
    shown(page, "by false-alarm rate").check()
    expect(page.locator("#verdict")).to_contain_text("Defect suspected", timeout=LONG)


def test_a_training_shows_its_loss_outlives_its_page_and_stopping_it_leaves_a_usable_model(page):
    page.get_by_role("button", name="Try: Paper with specks").click()
    expect(page.get_by_text("24 good pictures")).to_be_visible(timeout=LONG)
    choose_method(page, "EfficientAD")
    page.get_by_role("button", name=re.compile("^Options")).click()
    shown(page, "image size").fill("64")
    shown(page, "max steps").fill("100000")
    shown(page, "max steps").press("Tab")
    page.get_by_role("button", name="Train", exact=True).click()
    expect(page.get_by_text(re.compile("training: step .* of 100,000, loss .* left")).first).to_be_visible(timeout=LONG)
    expect(page.locator(".js-plotly-plot:visible")).to_have_count(1, timeout=LONG)
    page.reload()
    expect(page.get_by_text("24 good pictures from the example")).to_be_visible(timeout=LONG)
    expect(page.get_by_text(re.compile("training: step .* of 100,000, loss .* left")).first).to_be_visible(timeout=LONG)
    expect(page.locator(".js-plotly-plot:visible")).to_have_count(1, timeout=LONG)
    page.get_by_role("button", name="Stop", exact=True).click()
    page.locator("#fit-result details summary").click(timeout=LONG)
    expect(page.get_by_text(re.compile(r"training: [\d,]+ steps"))).to_be_visible()
    expect(page.get_by_text("5 good pictures kept aside can promise").first).to_be_visible()
    question = page.locator("#question")
    expect(question).to_contain_text("The training was stopped early", timeout=LONG)
    page.reload()
    expect(page.get_by_text("5 good pictures kept aside can promise").first).to_be_visible(timeout=LONG)
    expect(question).to_contain_text("The training was stopped early", timeout=LONG)
    page.get_by_role("button", name="Keep it").filter(visible=True).click()
    expect(question).to_be_hidden(timeout=LONG)
    page.get_by_role("tab", name="Inspect").click()
    page.get_by_role("button", name="Defective: Paper with specks").click()
    expect(page.locator("#verdict")).to_contain_text("more unusual than", timeout=LONG)
    page.get_by_role("button", name=re.compile("^Display")).click()
    page.get_by_label("local", exact=True).check()
    page.get_by_label("global", exact=True).check()


def test_methods_are_compared_and_their_options_are_there(page):
    page.get_by_role("button", name=re.compile("^Which method")).click()
    for title in ("FAPM", "PaDiM-iSVD", "PatchCore"):
        expect(page.locator("table.figures").get_by_text(title, exact=True)).to_be_visible(timeout=LONG)
    page.get_by_role("button", name="Try: Paper with specks").click()
    expect(page.get_by_text("24 good pictures")).to_be_visible(timeout=LONG)
    make_it_small(page)
    page.get_by_role("button", name=re.compile("^Expert(?!:)")).click()
    page.get_by_label("layers").first.fill("16,5")
    page.get_by_label("layers").first.press("Tab")
    expect(page.get_by_text("efficientnet_lite0 has 4,8,16")).to_be_visible(timeout=LONG)
    page.get_by_label("layers").first.fill("4,16")
    page.get_by_label("layers").first.press("Tab")
    expect(page.get_by_text("peak memory").first).to_be_visible(timeout=LONG)
    page.get_by_role("button", name="Train", exact=True).click()
    page.locator("#fit-result details summary").click(timeout=LONG)
    expect(page.get_by_text("memory bank 2")).to_be_visible()


def test_a_fit_can_be_stopped(page, specks):
    page.locator("input[type=file]").first.set_input_files([str(p) for p in specks.train] * 8)
    expect(page.get_by_text("good pictures from your upload")).to_be_visible(timeout=LONG)
    page.get_by_role("button", name=re.compile("^Options")).click()
    page.get_by_label("image size").fill("512")
    page.get_by_label("image size").press("Tab")
    page.get_by_role("button", name="Train", exact=True).click()
    expect(page.get_by_text(re.compile("learning: "))).to_be_visible(timeout=LONG)
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(page.get_by_text("Stopped. Nothing was changed.")).to_be_visible(timeout=LONG)


def test_uploads_list_what_cannot_be_read(page, specks, tmp_path):
    for name in ("one.png", "two.png"):
        (tmp_path / name).write_bytes(b"not a picture")
    files = [*specks.train[:6], tmp_path / "one.png", tmp_path / "two.png"]
    page.locator("input[type=file]").first.set_input_files([str(p) for p in files])
    expect(page.get_by_text("2 cannot be used and will be left out")).to_be_visible(timeout=LONG)
    expect(page.get_by_text("one.png: is not a picture")).to_be_visible()
    expect(page.get_by_text("two.png: is not a picture")).to_be_visible()


def test_a_file_taken_out_of_the_upload_leaves_the_count_and_the_estimate(page, specks):
    page.locator("input[type=file]").first.set_input_files([str(p) for p in specks.train[:5]])
    expect(page.get_by_text("5 good pictures from your upload")).to_be_visible(timeout=LONG)
    make_it_small(page)
    expect(page.get_by_text("peak memory").first).to_be_visible(timeout=LONG)
    for n in (4, 3):
        page.get_by_label("Remove this file").first.dispatch_event("click")
        expect(page.get_by_text(f"{n} good pictures from your upload")).to_be_visible(timeout=LONG)
    expect(page.get_by_text("at least 4 are needed")).to_be_visible(timeout=LONG)
    page.get_by_role("button", name="Clear", exact=True).filter(visible=True).first.click()
    expect(page.get_by_text("No pictures chosen yet.")).to_be_visible(timeout=LONG)


def test_the_names_of_files_are_whole(page, specks):
    page.get_by_role("tab", name="Evaluate").click()
    page.locator("#step-evaluate input[type=file]").first.set_input_files([str(p) for p in specks.train[:2]])
    for path in specks.train[:2]:
        name = page.locator("td.filename", has_text=path.stem)
        expect(name).to_be_visible(timeout=LONG)
        assert name.locator(".stem").evaluate("e => e.scrollWidth <= e.clientWidth")


def test_loading_over_an_unsaved_model_asks_and_inspect_follows(page, request, isvd):
    name = f"asked-{request.node.callspec.id}"
    admodels.save(isvd, name, overwrite=True)
    fit_the_example(page)
    page.get_by_role("tab", name="Inspect").click()
    page.get_by_role("button", name="Defective: Paper with specks").click()
    expect(page.locator("#verdict")).to_contain_text("not saved yet", timeout=LONG)
    page.get_by_role("tab", name="Models").click()
    page.get_by_role("combobox", name="Model").filter(visible=True).click()
    page.get_by_role("option", name=name).click()
    page.get_by_role("button", name="Load", exact=True).click()
    question = page.locator("#question")
    expect(question).to_contain_text("is not saved", timeout=LONG)
    page.get_by_role("button", name="Keep my model").click()
    expect(question).to_be_hidden(timeout=LONG)
    page.get_by_role("tab", name="Inspect").click()
    expect(page.get_by_text("not saved yet").first).to_be_visible(timeout=LONG)
    page.get_by_role("tab", name="Models").click()
    page.get_by_role("button", name="Load", exact=True).click()
    page.get_by_role("button", name=f"Open {name} instead of your unsaved model").click()
    expect(question).to_be_hidden(timeout=LONG)
    # What was inspected is scored again by itself, and says whose scores it shows.
    page.get_by_role("tab", name="Inspect").click()
    expect(page.locator("#chip").get_by_text(name)).to_be_visible(timeout=LONG)
    expect(page.locator("#verdict")).to_contain_text(name, timeout=LONG)
    expect(page.locator("#verdict")).to_contain_text("more unusual than")
    admodels.delete(name)


def test_a_tiled_ensemble_is_fitted_looked_at_kept_and_compared(page, request):
    name = f"tiles-{request.node.callspec.id}"
    page.get_by_role("button", name="Try: Paper with specks").click()
    expect(page.get_by_text("24 good pictures")).to_be_visible(timeout=LONG)
    page.get_by_role("button", name=re.compile("^Tiled ensemble")).click()
    page.get_by_label("Cut pictures into tiles").check()
    expect(page.get_by_text("3 × 3 tiles of 256×256 px, overlapping by 128×128: 9 models")).to_be_visible(timeout=LONG)
    expect(page.get_by_role("img", name="The grid of tiles over the first good picture")).to_be_visible(timeout=LONG)
    for label, value in (("tile size", "32"), ("stride", "32"), ("image size", "64")):
        shown(page, label).fill(value)
        shown(page, label).press("Tab")
    expect(page.get_by_text("2 × 2 tiles of 32×32 px, side by side: 4 models")).to_be_visible(timeout=LONG)
    page.get_by_role("button", name="Train", exact=True).click()
    page.locator("#fit-result details summary").click(timeout=LONG)
    expect(page.get_by_text("tiles: 2 × 2 of 32×32 px, 4 models")).to_be_visible()

    page.get_by_role("tab", name="Models").click()
    page.get_by_label("Name", exact=True).first.fill(name)
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator("ul.cards li", has_text=name)).to_contain_text("Tiled ensemble of FAPM", timeout=LONG)

    page.get_by_role("tab", name="Inspect").click()
    page.get_by_role("button", name="Defective: Paper with specks").click()
    expect(page.locator("#verdict")).to_contain_text("more unusual than", timeout=LONG)
    expect(page.locator("table.tiles td")).to_have_count(4)
    page.get_by_role("button", name=re.compile("^Display")).click()
    shown(page, "unsmoothed").check()
    page.get_by_role("button", name=re.compile("^Compare with another")).click()
    page.get_by_role("button", name="Compare this ensemble with the single model").click()
    expect(page.locator("#compared")).to_contain_text("single FAPM", timeout=LONG)
    expect(page.locator("#compared")).to_contain_text("time of the fit")
