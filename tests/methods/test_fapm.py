"""FAPM against section 2 of the paper, computed literally in NumPy from the same maps."""

import json
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from scipy.ndimage import gaussian_filter

import admodels
from admodels import LOCAL
from admodels.evaluation.accuracy import evaluate
from admodels.evaluation.datasets import load_dataset
from admodels.methods import fapm
from admodels.methods.fapm import Fapm, FapmConfig, key_counts, patch_grid
from admodels.models.format import CONFIG_FILE, TENSOR_FILE
from admodels.pictures.images import decode
from tests.conftest import DEVICE
from tests.methods import reference


def fit(normals, **options):
    """With folds the model learns from all pictures at once."""
    given = {"image_size": 96, "grid": 5, "layers": "8,16", "coreset_ratio": 0.1} | options
    return admodels.create("fapm", device=DEVICE, **given).fit(normals, n_folds=2)


@pytest.fixture(scope="module")
def uneven(normals):
    """Maps of 12×12 and 6×6, which 5×5 patches do not divide."""
    return fit(normals)


def encoded(detector, paths):
    batch = np.stack([detector.working_shape_.prepare(decode(p).pixels) for p in paths])
    return detector.method.encode(torch.from_numpy(batch))


def average(feature_map, count_padding=True):
    """3×3 mean with zeros around the map, or over what is there."""
    padded = np.pad(feature_map, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=0 if count_padding else np.nan)
    h, w = feature_map.shape[-2:]
    parts = [padded[:, :, y : y + h, x : x + w] for y in range(3) for x in range(3)]
    return np.nanmean(parts, axis=0)


def patches(height, width, n, step=1):
    """Position lists, cut as evenly as it goes, larger patches first; of each, every `step`-th row and column."""
    rows, columns = np.array_split(range(height), min(n, height)), np.array_split(range(width), min(n, width))
    return [[y * width + x for y in r[::step] for x in c[::step]] for r in rows for c in columns]


def memory(state, i):
    """Keys of each patch; they lie together by their number."""
    counts = state[f"counts_{i}"].numpy()
    order = np.argsort(counts, kind="stable")
    parts = np.split(state[f"keys_{i}"].numpy(), np.cumsum(counts[order])[:-1])
    return [part for _, part in sorted(zip(order, parts, strict=True), key=lambda pair: pair[0])]


def literal(detector, maps):
    """Score and map of each picture, position by position."""
    config, size = detector.config, detector.working_shape_.cropped
    scores, out = 0, 0
    layers = [average(m.numpy(), config.count_padding) for m in maps[1:]]
    if not config.layer_wise:
        layers = [np.concatenate([layers[0], reference.enlarge(layers[1], layers[0].shape[-2:])], axis=1)]
    weights = [1.0] if len(layers) == 1 else [0.5, 0.5]
    for i, layer in enumerate(layers):
        n, c, h, w = layer.shape
        x = layer.reshape(n, c, -1).transpose(0, 2, 1)
        x = x / np.linalg.norm(x, axis=2, keepdims=True) ** config.norm_power
        banks = memory(detector.state_, i)
        distances, near = np.zeros((n, h * w)), {}
        for bank, positions in zip(banks, patches(h, w, config.grid if config.patch_wise else 1), strict=True):
            for b in range(n):
                for position in positions:
                    d = np.sort(np.linalg.norm(bank - x[b, position], axis=1))
                    distances[b, position] = d[0]
                    near[b, position] = d[: min(config.n_neighbors, min(map(len, banks)))]
        n_top = max(1, round(config.top_ratio * h * w))
        image = np.zeros(n)
        for b in range(n):
            order = np.argsort(-distances[b])
            d = near[b, order[0]]
            weight = 1 - np.exp(d[0]) / np.exp(d).sum() if len(d) > 1 else 1
            image[b] = (distances[b, order[0]] * weight + distances[b, order[1:n_top]].sum()) / n_top
        scores = scores + weights[i] * image
        large = reference.enlarge(distances.reshape(n, h, w), size)
        out = out + weights[i] * np.stack([gaussian_filter(m, 4) for m in large])
    return (out.max((1, 2)) if config.image_score == "map" else scores), out


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"image_score": "layers"},
        {"image_score": "layers", "n_neighbors": 1, "top_ratio": 0},
        {"image_score": "layers", "top_ratio": 0.2},
        {"norm_power": 0.5, "adaptive": False, "count_padding": False},
        {"norm_power": 1, "grid": 4},
        {"patch_wise": False},
        {"layer_wise": False},
        {"patch_wise": False, "layer_wise": False, "adaptive": False},
    ],
    ids=str,
)
def test_scores_and_maps_are_those_of_the_paper(options, normals, specks):
    detector = fit(normals, **options)
    maps = encoded(detector, [item.path for item in specks.test[:3]])
    with torch.inference_mode():
        scores, anomaly_maps = detector.fitted_.scorer(maps)[:2]
    expected = literal(detector, maps)
    np.testing.assert_allclose(scores, expected[0], rtol=2e-3)
    np.testing.assert_allclose(anomaly_maps, expected[1], rtol=2e-3, atol=2e-3)


def test_the_banks_hold_the_greedy_selection_of_each_patch(normals):
    """Of the map at stride 4, of every second row and column of each patch."""
    detector = fit(normals, layers="4,8,16")
    n = len(normals)
    for i, (layer, step) in enumerate(zip(encoded(detector, normals), (2, 1, 1), strict=True)):
        layer = average(layer.numpy())
        c, h, w = layer.shape[1:]
        x = layer.reshape(n, c, -1).transpose(0, 2, 1)
        radii = detector.state_[f"radii_{i}"].numpy()
        threshold = detector.state_["thresholds"][i].item()
        assert threshold == pytest.approx(radii.mean() + radii.std(), rel=1e-4)
        cut = patches(h, w, 5, step)
        for p, (bank, positions) in enumerate(zip(memory(detector.state_, i), cut, strict=True)):
            vectors = x[:, positions].reshape(-1, c)
            n_keys = max(1, round(0.1 * len(vectors)))
            picks = reference.greedy_k_centre(vectors, min(2 * n_keys, len(vectors)))
            base = vectors[picks[:n_keys]]
            radius = np.linalg.norm(vectors[:, None] - base[None], axis=2).min(1).max()
            assert radii[p] == pytest.approx(radius, rel=1e-3)
            kept = vectors[picks] if radii[p] > threshold else base
            np.testing.assert_allclose(bank, kept, rtol=1e-3, atol=1e-3)


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 12), st.integers(1, 3))
def test_a_grid_cuts_any_map(height, width, n, batch):
    grid = patch_grid(height, width, n)
    assert sum(grid.sizes) == height * width
    assert max(grid.sizes) == grid.positions.shape[1]
    assert set(grid.positions.flatten().tolist()) == set(range(height * width))
    values = torch.randn(batch, height * width, 2)
    by_patch = values[:, grid.positions].transpose(0, 1).flatten(1, 2)  # (P, B·S, 2)
    assert torch.equal(grid.split(values), by_patch)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(1, 3), st.data())
def test_a_bank_finds_the_nearest_keys_of_each_patch_whatever_their_numbers(height, width, n, batch, data):
    grid = patch_grid(height, width, n)
    # Some patches have so many more keys than others that they are searched in a product of their own.
    counts = torch.tensor([data.draw(st.sampled_from((1, 2, 3, 4000))) for _ in grid.sizes])
    generator = torch.Generator().manual_seed(height)
    keys = [torch.randn(n_keys, 5, generator=generator) for n_keys in counts]
    stored = torch.cat([keys[p] for p in sorted(range(len(counts)), key=counts.tolist().__getitem__)])
    vectors = torch.randn(batch, height * width, 5, generator=generator)
    with mock.patch.object(fapm, "WORTH_A_RUN", 1e4):
        bank = fapm._bank(stored, counts, grid)
    apart = torch.empty(batch, height * width)
    for positions, memory_of in zip(grid.positions, keys, strict=True):
        apart[:, positions] = torch.cdist(vectors[:, positions], memory_of.expand(batch, -1, -1)).amin(2)
    torch.testing.assert_close(bank.distances(vectors), apart, atol=1e-3, rtol=1e-3)
    at = torch.randint(0, height * width, (batch,), generator=generator)
    patch_of = {int(position): p for p, positions in enumerate(grid.positions) for position in positions}
    few = bank.few_nearest(vectors, at, 2)
    for b, position in enumerate(at.tolist()):
        near = torch.cdist(vectors[b, position][None], keys[patch_of[position]])[0].sort().values[: few.shape[1]]
        torch.testing.assert_close(few[b], near, atol=1e-3, rtol=1e-3)


def test_a_radius_given_by_hand_decides(normals):
    base = [sum(key_counts(0.1, 24, grid)) for grid in (patch_grid(12, 12, 5), patch_grid(6, 6, 5))]
    for threshold, factor in ((0, 2), (1e6, 1)):
        state = fit(normals, radius_threshold=threshold).state_
        assert [len(state[f"keys_{i}"]) for i in range(2)] == [factor * n for n in base]


def test_the_papers_five_rows_are_told_apart(normals):
    shapes = []
    for name, options in Fapm.comparison.items():
        state = fit(normals, **options).state_
        shapes.append((len(state["counts_0"]), "keys_1" in state, state["keys_0"].shape[1]))
        plain = sum(key_counts(0.1, 24, patch_grid(12, 12, 5 if options["patch_wise"] else 1)))
        assert (len(state["keys_0"]) > plain) == name.startswith("E")
    assert shapes == [(1, False, 152), (25, False, 152), (1, True, 40), (25, True, 40), (25, True, 40)]


def test_an_update_goes_on_from_the_old_keys_over_the_new_vectors(normals):
    """As many are kept as a fit on all would keep; the old ones first, then the farthest of the new ones."""
    detector = fit(normals[:12])
    method, shape, before = detector.method, detector.working_shape_, detector.state_
    new = encoded(detector, normals[12:])
    learner = method.learner(shape, 12, before)
    learner.add(new)
    after = learner.finish()
    assert after["n_images"] == 24
    for i, layer in enumerate(new[1:]):
        layer = average(layer.numpy())
        c, h, w = layer.shape[1:]
        x = layer.reshape(12, c, -1).transpose(0, 2, 1)
        wanted = key_counts(0.1, 24, patch_grid(h, w, 5))
        for p, positions in enumerate(patches(h, w, 5)):
            old, found = memory(before, i)[p], memory(after, i)[p]
            assert len(found) in (wanted[p], 2 * wanted[p], len(old))
            np.testing.assert_array_equal(found[: len(old)], old)
            vectors = x[:, positions].reshape(-1, c)
            for k in range(len(old), len(found)):
                farthest = np.linalg.norm(vectors[:, None] - found[None, :k], axis=2).min(1).max()
                taken = np.linalg.norm(found[k] - found[:k], axis=1).min()
                assert taken == pytest.approx(farthest, rel=1e-3)


def test_a_third_bank_and_weights(normals, specks):
    detector = fit(normals, layers="4,8,16", layer_weights="0, 0, 1", radius_threshold=1e6)
    alone = fit(normals, layers="16", radius_threshold=1e6)
    path = specks.test[0].path
    assert detector.predict(path).score == pytest.approx(alone.predict(path).score, rel=1e-4)
    assert len(detector.details()) == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"layers": "8,32"}, "4,8,16"),
        ({"radius_threshold": "large"}, "auto or a number"),
        ({"radius_threshold": -1}, "auto or a number"),
        ({"layer_weights": "1"}, "3 numbers"),
        ({"layer_weights": "0,0"}, "not all 0"),
        ({"layer_weights": "1,2", "layer_wise": False}, "1 number from"),
        ({"coreset_ratio": 0}, "coreset_ratio"),
        ({"top_ratio": -0.1}, "top_ratio"),
    ],
)
def test_wrong_options_are_explained(options, said):
    with pytest.raises(admodels.OptionError, match=said):
        FapmConfig(**options)


def test_a_threshold_written_as_text_is_a_number():
    assert admodels.create("fapm", radius_threshold="2.5").config.radius_threshold == 2.5


def edit_config(path, change):
    """Change a saved configuration; without digests, that is not noticed by itself."""
    config = json.loads(path.read_text(encoding="utf-8"))
    change(config)
    path.write_text(json.dumps(config), encoding="utf-8")


@pytest.mark.parametrize("wrong", ["more", "negative"])
def test_counts_that_contradict_the_keys_are_refused(uneven, wrong, tmp_path, monkeypatch):
    monkeypatch.setenv("ADMODELS_HOME", str(tmp_path))
    path = LOCAL.save(uneven, "bolts") / TENSOR_FILE
    edit_config(path.with_name(CONFIG_FILE), lambda config: config.pop("digests"))
    tensors = load_file(path)
    tensors["counts_0"][0] += 1
    if wrong == "negative":
        tensors["counts_0"][:2] = torch.tensor([-5, int(tensors["counts_0"][:2].sum()) + 4])
    save_file(tensors, path)
    with pytest.raises(admodels.StoreError, match="contradicts itself"):
        admodels.load("bolts")


def test_too_many_keys_for_the_pictures_are_refused(uneven, tmp_path, monkeypatch):
    monkeypatch.setenv("ADMODELS_HOME", str(tmp_path))
    path = LOCAL.save(uneven, "bolts") / CONFIG_FILE
    edit_config(path, lambda config: (config.pop("digests"), config["fit"].update(n_learned=1)))
    with pytest.raises(admodels.StoreError, match="asks for F32"):
        admodels.load("bolts")


def test_it_finds_the_specks(small_data):
    detector = admodels.create("fapm", device=DEVICE, image_size=128)
    result = evaluate(detector, load_dataset(small_data))
    assert result.image_auroc > 0.95
    assert result.pixel_auroc > 0.9
