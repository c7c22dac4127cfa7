"""What a product looks like as a whole, kept by every fit; and which product a picture is routed to."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

import admodels
from admodels.core import product as products_of
from admodels.core.product import LENGTH, MAX_KEPT, MAX_SEEN, Product, describe, describe_some, joined
from admodels.core.routing import Routed, route, route_all, routed
from admodels.evaluation.datasets import load_dataset, normal_images
from admodels.pictures.images import decode, inspect_set
from tests.conftest import DEVICE, EXAMPLES, SMALL, encode, first_step, gradient

OTHER = EXAMPLES / "pa_brg03_tl"


@pytest.fixture(scope="module")
def products():
    """Those of the two examples, by name."""
    return {root.name: product(normal_images(root)) for root in (EXAMPLES / "pa_brg02_rl", OTHER)}


def product(images, seed=0, value_range=None):
    images = list(images)
    return Product(describe_some(inspect_set(images), list(range(len(images))), value_range, seed))


def drawn(seed, n):
    return np.random.default_rng(seed).normal(size=(n, LENGTH)).astype(np.float32)


def pixels(path):
    return decode(path).pixels


# --- what a product is --------------------


def test_a_picture_is_described_the_same_however_it_is_given(normals):
    path = normals[0]
    ways = [path, path.read_bytes(), Image.open(path), pixels(path)]
    found = [describe([decode(way).pixels]) for way in ways]
    assert found[0].shape == (1, LENGTH)
    assert found[0].dtype == np.float32
    for other in found[1:]:
        assert np.array_equal(other, found[0])


def test_several_pictures_of_any_sizes_are_described_as_each_alone(normals):
    pictures = [pixels(normals[0]), pixels(normals[1])[:90], np.asarray(gradient(300, 40))]
    alone = np.concatenate([describe([picture]) for picture in pictures])
    assert describe(pictures) == pytest.approx(alone, rel=1e-3, abs=1e-3)


def test_a_defect_hardly_moves_what_a_picture_looks_like(normals, products):
    picture = pixels(normals[0])
    spoilt = picture.copy()
    spoilt[40:60, 30:70] = (250, 20, 20)
    assert products["pa_brg02_rl"].distances(describe([picture, spoilt])).max() < 1


def test_the_threshold_is_that_of_leaving_each_picture_out():
    descriptors = drawn(0, 24) * np.linspace(0.1, 9, 24, dtype=np.float32)[:, None]
    held_out = []
    for i in range(24):
        rest = Product(np.delete(descriptors, i, axis=0))
        held_out.append(float(rest.distances(descriptors[i : i + 1])[0]) * rest.threshold)
    found = Product(descriptors).threshold
    assert found == pytest.approx(max(held_out), rel=2e-2)  # the floor moves a little with the mean
    assert found > products_of.LEAST_THRESHOLD
    assert Product(drawn(0, 64)).threshold == products_of.LEAST_THRESHOLD


def test_about_one_good_picture_in_twenty_is_unknown_at_most():
    x = np.random.default_rng(0).standard_t(3, (400, 1)) * drawn(1, 400)  # some lie far out
    found = [Product(x[first : first + 40].astype(np.float32)).distances(x) for first in range(0, 400, 40)]
    assert np.mean(np.array(found) > 1) <= 0.06


@given(st.integers(4, 40), st.floats(0, 1e6), st.integers(0, 3))
def test_distances_are_finite_and_pictures_that_are_alike_are_known(n, scale, seed):
    known = Product((drawn(seed, 1) * scale).repeat(n, axis=0).astype(np.float32))
    assert known.threshold >= 1
    assert known.distances(known.descriptors).max() < 0.1
    assert np.isfinite(known.distances(drawn(seed + 1, 2) * 1e6)).all()


def test_few_pictures_are_looked_at_and_of_large_ones_fewer(monkeypatch, normals):
    seen = []
    monkeypatch.setattr(products_of, "_described", lambda batch: seen.append(batch) or drawn(0, len(batch)))
    several = [np.full((16, 16, 3), i, np.uint8) for i in range(100)]
    assert len(product(several).descriptors) == MAX_SEEN
    assert not np.array_equal(np.concatenate(seen), np.arange(MAX_SEEN))
    first = np.concatenate(seen)
    seen.clear()
    product(several, seed=1)
    assert not np.array_equal(np.concatenate(seen), first)
    monkeypatch.setattr(products_of, "MAX_DECODED_PIXELS", 16 * 16 * 20)
    assert len(product(several).descriptors) == 20
    monkeypatch.setattr(products_of, "MAX_DECODED_PIXELS", 16)
    assert len(product(several).descriptors) == products_of.MIN_OF_LARGE


def test_copies_of_a_picture_count_once(normals):
    looked_at = inspect_set([*normals[:4], normals[0], normals[0]])
    assert len(describe_some(looked_at, [0, 1, 2, 3, 0, 0], None, 0)) == 4


def test_an_update_adds_pictures_and_makes_room_for_them():
    first, new = drawn(0, 20), drawn(1, 5)
    both = joined(Product(first), new).descriptors
    assert np.array_equal(both, np.concatenate([first, new]))
    for i in range(2, 6):
        both = joined(Product(both), drawn(i, MAX_SEEN)).descriptors
    assert len(both) == MAX_KEPT
    assert np.array_equal(both[-MAX_SEEN:], drawn(5, MAX_SEEN))
    # Nothing is known of what an older model learned from.
    assert joined(None, new[:3]) is None
    assert np.array_equal(joined(None, new).descriptors, new)


# --- every fit keeps it --------------------


@pytest.mark.parametrize("method", sorted(admodels.DETECTORS))
def test_every_method_has_the_same_product_saved_bit_for_bit(method, normals, tmp_path, monkeypatch):
    monkeypatch.setenv("ADMODELS_HOME", str(tmp_path))
    options = SMALL[method] | first_step(method)
    detector = admodels.create(method, device=DEVICE, **options).fit(normals[:8])
    found = detector.fitted_.product
    assert np.array_equal(found.descriptors, product(normals[:8]).descriptors)
    admodels.save(detector, "model")
    loaded = admodels.load("model", device=DEVICE).fitted_.product
    assert loaded.descriptors.tobytes() == found.descriptors.tobytes()
    assert loaded.threshold == found.threshold
    assert "product.descriptors" not in admodels.load("model", device=DEVICE).state_
    # Another threshold changes nothing about it, saved again neither.
    assert detector.with_threshold(threshold=3.0).fitted_.product is found
    admodels.save(admodels.load("model").with_threshold(threshold=3.0), "again")
    assert admodels.load("again").fitted_.product.descriptors.tobytes() == found.descriptors.tobytes()


def test_a_fit_learns_and_scores_as_without_a_product(normals, monkeypatch):
    def fitted():
        return admodels.create("padim_isvd", device=DEVICE, **SMALL["padim_isvd"]).fit(normals[:8])

    torch.manual_seed(7)
    torch.set_num_threads(2)
    before = torch.get_rng_state(), repr(np.random.get_state()), random.getstate(), torch.get_num_threads()
    with_it = fitted()
    after = torch.get_rng_state(), repr(np.random.get_state()), random.getstate(), torch.get_num_threads()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    monkeypatch.setattr("admodels.core.fitting.describe_some", lambda *_: drawn(0, 4))
    without = fitted()
    assert with_it.calibration_ == without.calibration_
    for name, tensor in without.state_.items():
        assert torch.equal(with_it.state_[name], tensor), name


def test_an_update_of_a_detector_adds_to_its_product(normals):
    detector = admodels.create("padim_isvd", device=DEVICE, **SMALL["padim_isvd"]).fit(normals[:8])
    first = detector.fitted_.product.descriptors
    detector.update(normals[8:11])
    after = detector.fitted_.product.descriptors
    assert np.array_equal(after[:8], first)
    assert len(after) == 11


def test_deep_pictures_are_read_on_the_models_scale(normals):
    grey = [np.asarray(Image.open(path).convert("L")).astype(np.uint16) * 16 for path in normals[:8]]  # 12 bits
    deep = [encode(Image.fromarray(picture)) for picture in grey]
    detector = admodels.create("padim_isvd", device=DEVICE, **SMALL["padim_isvd"]).fit(deep)
    described = describe([detector.read(picture).pixels for picture in deep])
    assert np.array_equal(detector.fitted_.product.descriptors, described)
    assert not np.allclose(described, describe([decode(picture).pixels for picture in deep]), atol=0.1)


# --- routing --------------------


@pytest.mark.parametrize("root", [EXAMPLES / "pa_brg02_rl", OTHER], ids=lambda root: root.name)
def test_the_examples_are_routed_to_their_own_product(root, products):
    test = load_dataset(root).test
    answers = route_all([decode(item.path) for item in test], products)
    good = [answer for answer, item in zip(answers, test, strict=True) if not item.is_defective]
    assert {answer.name for answer in good} == {root.name}
    assert min(answer.sure for answer in good) > 0.5
    named = [answer.name for answer in answers]
    assert named.count(root.name) >= 0.7 * len(test)
    assert set(named) <= {root.name, None}


def something_else():
    rng = np.random.default_rng(0)
    yield rng.integers(0, 256, (128, 128, 3), dtype=np.uint8)
    yield np.asarray(gradient(200, 150))
    yield np.zeros((64, 64, 3), np.uint8)
    blurred = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((320, 240), Image.BICUBIC)
    yield np.asarray(blurred)


def test_a_picture_of_something_else_is_unknown(products):
    for one in ({"pa_brg03_tl": products["pa_brg03_tl"]}, products):
        for answer in route_all(list(something_else()), one):
            assert answer.name is None
            assert min(answer.distances.values()) > 1
            assert answer.sure > 0.9


def test_with_one_product_a_picture_is_of_it_or_unknown(products, specks):
    one = {"paper": products["pa_brg02_rl"]}
    assert route(decode(specks.train[0]), one).name == "paper"
    assert route(pixels(normal_images(OTHER)[0]), one).name is None


def test_several_pictures_are_routed_as_each_alone(products, normals):
    pictures = [pixels(normals[0]), *something_else()]
    for answer, picture in zip(route_all(pictures, products), pictures, strict=True):
        alone = route(picture, products)
        assert answer.name == alone.name
        assert answer.distances == pytest.approx(alone.distances, rel=1e-3)
        assert answer.sure == pytest.approx(alone.sure, abs=1e-2)
    assert route_all([], products) == []


def test_one_pass_of_the_network_serves_all_products(products, monkeypatch, normals):
    passes = []
    real = products_of._described
    monkeypatch.setattr(products_of, "_described", lambda batch: passes.append(len(batch)) or real(batch))
    route_all([pixels(path) for path in normals[:3]], {str(i): products["pa_brg02_rl"] for i in range(5)})
    assert passes == [3]


def test_how_sure_follows_from_the_distances_alone():
    assert routed({"a": 0.5}) == Routed("a", 2**10 / (2**10 + 1), {"a": 0.5})
    assert routed({"a": 1.0}) == Routed("a", 0.5, {"a": 1.0})
    assert routed({"a": 2.0}).sure == pytest.approx(1 / (1 + 2**-10))
    assert routed({"b": 0.5, "a": 0.5}).name == "b"
    assert routed({"b": 0.5, "a": 0.5}).sure == pytest.approx(0.5, abs=1e-3)
    with pytest.raises(admodels.DataError, match="no products"):
        routed({})


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1e6), min_size=1))
def test_how_sure_is_a_share_and_the_answer_has_the_largest(distances):
    answer = routed(distances)
    assert 1 / (len(distances) + 1) - 1e-9 <= answer.sure <= 1
    assert answer.distances == distances
    assert (answer.name is None) == (min(distances.values()) > 1)
    assert answer.name is None or distances[answer.name] == min(distances.values())


@pytest.mark.parametrize("change", ["saved as JPEG", "brighter", "darker", "half the size"])
def test_the_same_product_seen_a_little_differently_is_still_known(change, products, normals):
    def changed(path):
        image = Image.open(path).convert("RGB")
        if change == "saved as JPEG":
            return decode(encode(image, "JPEG", quality=90)).pixels
        if change == "half the size":
            return np.asarray(image.resize((image.width // 2, image.height // 2)))
        return np.asarray(ImageEnhance.Brightness(image).enhance(1.08 if change == "brighter" else 0.92))

    found = [answer.name for answer in route_all([changed(path) for path in normals[:8]], products)]
    assert found == ["pa_brg02_rl"] * 8
