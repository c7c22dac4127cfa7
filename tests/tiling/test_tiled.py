"""The tiled ensemble: where tiles lie, how they are merged, and that every method works inside it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter, zoom

import admodels
from admodels.efficientad import method as efficientad
from admodels.models import read_folder, write_folder
from admodels.pictures.images import decode, inspect_set, resize
from admodels.pictures.working_shape import WorkingShape
from admodels.tiling import cluster as tiled_cluster
from admodels.tiling.grid import tile_grid
from admodels.tiling.learner import member_state
from admodels.training import budget
from tests.conftest import DEVICE, SMALL

SIDE, TILE = 128, 64
# Options of a member whose fit takes a moment.
MEMBERS = {
    key: {name: value for name, value in options.items() if name != "image_size"}
    for key, options in SMALL.items()
    if key != "tiled"
}
every_member = pytest.mark.parametrize("member", sorted(MEMBERS))


def tiled(member="padim_isvd", **options):
    given = {"image_size": SIDE, "tile_size": TILE, "stride": 32, "method": member, "member": MEMBERS[member]}
    return admodels.create("tiled", device=DEVICE, **(given | options))


def at_size(paths, height=SIDE, width=SIDE):
    """Pictures that need no resizing any more."""
    return [resize(decode(path).pixels, (height, width), None) for path in paths]


@pytest.fixture(scope="module")
def pictures(normals):
    return at_size(normals)


@pytest.fixture(scope="module")
def defective(specks):
    return at_size([item.path for item in specks.test[:3]])


@pytest.fixture(scope="module")
def nine(pictures):
    return tiled().fit(pictures, n_folds=0)


def merged_literally(maps, starts, size, smoothing=None):
    """Section 3.3, pixel by pixel: `maps` {(top, left): array}; `smoothing` (sigma, pixels on each side of a seam)."""
    total, count = np.zeros(size), np.zeros(size)
    borders = ({0}, {0})
    for (top, left), tile_map in maps.items():
        height, width = tile_map.shape
        for y in range(height):
            for x in range(width):
                if top + y < size[0] and left + x < size[1]:
                    total[top + y, left + x] += tile_map[y, x]
                    count[top + y, left + x] += 1
        for found, first, side in zip(borders, (top, left), (height, width), strict=True):
            found.update((first, first + side))
    mean = total / count
    if smoothing is None:
        return mean
    sigma, band = smoothing
    blurred, result = gaussian_filter(mean, sigma), mean.copy()
    for y in range(size[0]):
        for x in range(size[1]):
            near_y = any(b - band <= y < b + band for b in borders[0] if 0 < b < size[0])
            near_x = any(b - band <= x < b + band for b in borders[1] if 0 < b < size[1])
            if near_y or near_x:
                result[y, x] = blurred[y, x]
    return result


@pytest.mark.parametrize(("options", "merge"), [({}, np.mean), ({"score_merge": "max"}, np.max)])
def test_it_is_the_paper_done_by_hand_with_separate_models(pictures, defective, options, merge):
    """Eq. 1 to 5 with nine plain detectors, each fitted on its own crops."""
    ensemble = tiled(seam_sigma=1.5, **options).fit(pictures, n_folds=0)
    starts = [(y, x) for y in (0, 32, 64) for x in (0, 32, 64)]
    models = {
        (y, x): admodels.create("padim_isvd", device=DEVICE, image_size=TILE, **MEMBERS["padim_isvd"]).fit(
            [p[y : y + TILE, x : x + TILE] for p in pictures], n_folds=0
        )
        for y, x in starts
    }
    for picture in defective:
        found = ensemble.predict(picture)
        alone = {(y, x): m.predict(picture[y : y + TILE, x : x + TILE]) for (y, x), m in models.items()}
        scores = np.array([prediction.score for prediction in alone.values()])
        assert found.tile_scores.ravel() == pytest.approx(scores, rel=1e-3)
        assert found.score == pytest.approx(merge(scores), rel=1e-3)
        maps = {at: prediction.anomaly_map for at, prediction in alone.items()}
        plain = merged_literally(maps, starts, (SIDE, SIDE))
        np.testing.assert_allclose(found.parts["unsmoothed"], plain, rtol=2e-3, atol=1e-3)
        smoothed = merged_literally(maps, starts, (SIDE, SIDE), smoothing=(1.5, round(0.1 * TILE)))
        np.testing.assert_allclose(found.anomaly_map, smoothed, rtol=2e-3, atol=2e-3)


def test_without_smoothing_the_map_is_the_mean_of_the_tiles(pictures, defective, nine):
    ensemble = tiled(seam_smoothing=False).fit(pictures, n_folds=0)
    found, smoothed = ensemble.predict(defective[0]), nine.predict(defective[0])
    assert not found.parts
    assert np.array_equal(found.anomaly_map, smoothed.parts["unsmoothed"])
    assert found.score == smoothed.score


@every_member
def test_one_tile_of_the_whole_picture_is_the_single_model_exactly(member, normals, specks):
    options = MEMBERS[member]
    single = admodels.create(member, device=DEVICE, image_size=SIDE, **options).fit(normals)
    ensemble = tiled(member, tile_size=SIDE, stride=SIDE).fit(normals)
    assert ensemble.calibration_ == single.calibration_
    for item in specks.test[:2]:
        a, b = single.predict(item.path), ensemble.predict(item.path)
        assert a.score == b.score
        assert np.array_equal(a.anomaly_map, b.anomaly_map)
        assert {k: v.tobytes() for k, v in a.parts.items()} == {k: v.tobytes() for k, v in b.parts.items()}


@every_member
def test_every_method_works_inside(member, normals, specks, tmp_path):
    ensemble = tiled(member, stride=TILE).fit(normals)
    found = ensemble.predict(specks.test[0].path)
    assert found.tile_scores.shape == (2, 2)
    assert np.isfinite(found.anomaly_map).all()
    assert ensemble.title == f"Tiled ensemble of {admodels.METHODS[member].title}"
    write_folder(ensemble, tmp_path)
    loaded = read_folder(tmp_path, admodels.DETECTORS, device=DEVICE)
    again = loaded.predict(specks.test[0].path)
    assert again.score == found.score
    assert np.array_equal(again.anomaly_map, found.anomaly_map)
    assert loaded.config == ensemble.config
    good = np.mean([p.score for p in ensemble.predict_batch(normals[:6])])
    bad = np.mean([p.score for p in ensemble.predict_batch([item.path for item in specks.test])])
    assert bad > good


@pytest.mark.parametrize("member", ["fapm", "padim", "padim_isvd"])
def test_all_tiles_at_once_score_as_one_after_the_other(member, pictures, defective):
    ensemble = tiled(member).fit(pictures, n_folds=0)
    together = ensemble.fitted_.scorer
    assert together.joined is not None
    batch = torch.from_numpy(np.stack(defective))
    scores, maps = ensemble.score_batch(batch)
    tile = WorkingShape((TILE, TILE), (TILE, TILE))
    with torch.inference_mode():
        each = [ensemble.method.member.scorer(member_state(ensemble.state_, i), tile) for i in range(9)]
        apart = replace(together, joined=None, each=each)(ensemble.method.encode(batch))
    torch.testing.assert_close(scores, apart.scores, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(maps, apart.maps, rtol=1e-3, atol=1e-3)


@every_member
def test_one_model_for_all_tiles(member, pictures, defective):
    ensemble = tiled(member, one_model=True, stride=TILE).fit(pictures[:10], n_folds=0)
    model_of_one = admodels.create(member, device=DEVICE, image_size=TILE, **MEMBERS[member])
    crops = [p[y : y + TILE, x : x + TILE] for p in pictures[:2] for y in (0, TILE) for x in (0, TILE)]
    model_of_one.fit(crops, n_folds=0)
    assert {name.removesuffix("@0") for name in ensemble.state_} == set(model_of_one.state_)
    assert ensemble.predict(defective[0]).tile_scores.shape == (2, 2)
    assert "one model for all" in ensemble.details()["tiles"]


def test_one_model_learns_from_the_tiles_of_all_places(pictures):
    ensemble = tiled(one_model=True, stride=TILE).fit(pictures, n_folds=0)
    assert ensemble.state_["n_images"].tolist() == [4 * 24]
    assert tiled(stride=TILE).fit(pictures, n_folds=0).state_["n_images"].tolist() == [24] * 4


def test_more_pictures_can_be_learned(pictures, nine):
    ensemble = tiled().fit(pictures[:14], n_folds=0)
    ensemble.update(pictures[14:])
    assert ensemble.state_["n_images"].tolist() == [ensemble.fit_report_.n_learned] * 9


@given(
    side=st.integers(64, 400),
    tile_ratio=st.floats(0.1, 1.0),
    stride_ratio=st.floats(0.2, 1.0),
    height=st.integers(2, 14),
    width=st.integers(2, 14),
)
def test_tiles_cover_every_pixel_and_merging_takes_the_mean(side, tile_ratio, stride_ratio, height, width):
    tile = max(32, int(side * tile_ratio))
    stride = max(16, int(tile * stride_ratio))
    size = (32 * height, 32 * width)
    grid = tile_grid(size, side, tile, stride)
    assert grid.n_tiles == (1 + -(-(side - tile) // stride)) ** 2
    picture = torch.arange(size[0] * size[1], dtype=torch.float32).view(1, *size, 1)
    tiles = grid.cut(picture)
    assert tiles.shape == (1, grid.n_tiles, *grid.tile, 1)
    merged = grid.merge(tiles[..., 0])
    torch.testing.assert_close(merged, picture[..., 0], rtol=1e-6, atol=0.5)


def test_what_does_not_fit_is_padded_with_zeros_and_cut_off_again():
    grid = tile_grid((100, 100), 100, 64, 64)
    assert (grid.rows, grid.tile) == ((0, 64), (64, 64))
    tiles = grid.cut(torch.ones(1, 100, 100, 3, dtype=torch.uint8))
    assert tiles[0, 3, :36, :36].min() == 1
    assert tiles[0, 3, 36:].max() == tiles[0, 3, :, 36:].max() == 0
    assert grid.merge(tiles[..., 0].float()).shape == (1, 100, 100)


@pytest.mark.parametrize(
    ("image_size", "tile_size", "stride", "n"), [(512, 256, 128, 9), (512, 256, 256, 4), (512, 512, 512, 1)]
)
def test_the_papers_grids_whatever_the_aspect(image_size, tile_size, stride, n):
    for size in ((512, 512), (448, 576), (608, 416), (352, 736)):
        grid = tile_grid(size, image_size, tile_size, stride)
        assert grid.n_tiles == n
        assert all(
            starts[-1] + side - full <= len(starts)
            for starts, side, full in zip((grid.rows, grid.columns), grid.tile, size, strict=True)
        ), "padded though it fits"


def test_pictures_that_are_not_square_get_tiles_of_their_shape(rng):
    wide = [rng.integers(0, 256, (64, 128, 3), dtype=np.uint8) for _ in range(6)]
    ensemble = tiled(stride=TILE).fit(wide)
    assert ensemble.working_shape_.resized == (96, 192)
    assert ensemble.method.grid(ensemble.working_shape_).tile == (48, 96)
    found = ensemble.predict(wide[0])
    assert found.anomaly_map.shape == (64, 128)
    assert found.tile_scores.shape == (2, 2)


def test_maps_of_patches_are_enlarged_as_those_of_a_single_model(pictures, defective):
    """PaDiM-iSVD's map before the blur has a value for every 4×4 pixels; SciPy's bilinear enlargement says the same."""
    options = {"stride": TILE, "seam_smoothing": False, "member.blur": False}
    ensemble = tiled(**options).fit(pictures, n_folds=0)
    batch = torch.from_numpy(defective[0].copy())[None]
    with torch.inference_mode():
        encoded = [m.flatten(0, 1) for m in ensemble.method.encode(batch)]
        maps = ensemble.fitted_.scorer._tiles(encoded).maps.numpy()
    assert maps.shape == (4, 16, 16)
    large = [zoom(m, 4, order=1, mode="nearest", grid_mode=True) for m in maps]
    expected = np.block([[large[0], large[1]], [large[2], large[3]]])
    np.testing.assert_allclose(ensemble.predict(defective[0]).anomaly_map, expected, rtol=1e-4, atol=1e-4)


def test_a_memory_limit_lowers_the_batch_and_changes_no_score(pictures, defective, nine):
    small = tiled(memory_limit_mib=16, image_size=512, tile_size=256, stride=128)
    shape = WorkingShape((512, 512), (512, 512))
    assert small.method.batch_size(shape) == 1
    assert tiled(image_size=512, tile_size=256, stride=128).method.batch_size(shape) == 8
    limited = tiled(memory_limit_mib=16)
    limited.fit(pictures, n_folds=0)
    assert limited.predict(defective[0]).score == pytest.approx(nine.predict(defective[0]).score, rel=1e-4)


def test_options_of_the_members_may_come_one_by_one_and_as_text():
    config = admodels.create("tiled", **{"method": "fapm", "member.grid": "3", "member.adaptive": "no"}).config
    assert config.member == {"grid": 3, "adaptive": False}
    assert config == admodels.create("tiled", method="fapm", member={"grid": 3, "adaptive": False}).config
    assert admodels.create("tiled", member={"n_components": 16}).config.member == {}  # the default


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tile_size": 600}, "larger than the picture"),
        ({"stride": 300}, "never be checked"),
        ({"stride": 16, "tile_size": 32}, "more than 256"),
        ({"method": "tiled"}, "expected one of fapm"),
        ({"method": "nothing"}, "expected one of fapm"),
        ({"member.n_component": 3}, "Did you mean 'n_components'"),
        ({"member": {"n_components": 0}}, "n_components is 0"),
        ({"member.image_size": 64}, "follows from the ensemble's own"),
        ({"member": 3}, "expected options by name"),
        ({"engine": "spark"}, "expected one of local, ray"),
    ],
)
def test_wrong_options_are_refused(options, said):
    with pytest.raises(admodels.OptionError, match=said):
        admodels.create("tiled", **options)


def test_a_training_stopped_before_the_last_tile_leaves_nothing(pictures):
    def enough(progress):
        if progress.stage == "training" and progress.loss is not None:
            raise admodels.Enough("that will do")

    ensemble = tiled("efficientad", stride=TILE)
    with pytest.raises(admodels.Cancelled, match="tile 1 of 4"):
        ensemble.fit(pictures, on_progress=enough)
    assert not ensemble.is_fitted


def test_a_stopped_last_tile_is_kept_as_it_is(pictures):
    def enough(progress):
        if progress.stage == "training" and progress.done == 3 * 6 + 2:
            raise admodels.Enough("that will do")

    ensemble = tiled("efficientad", stride=TILE).fit(pictures, on_progress=enough)
    assert [int(member_state(ensemble.state_, i)["n_steps"]) for i in range(4)] == [6, 6, 6, 2]


@pytest.mark.parametrize(
    ("options", "n_turns"),
    [({"stride": TILE}, 4), ({}, 9), ({"one_model": True}, 1), ({"stride": TILE, "tile_size": SIDE}, 1)],
)
@pytest.mark.parametrize("minutes", [0.05, 6.0, None])
def test_a_fits_minutes_are_those_of_all_tiles_together(options, n_turns, minutes, monkeypatch):
    """Without a limit of its own, a fit on a CPU has ten."""
    seconds = budget.Seconds(step=0.01, teacher=0.0, score=0.0)
    monkeypatch.setattr(budget, "_SECONDS", {})
    schedule = replace(efficientad.SCHEDULE, short_steps=10**9, long=10**9)
    monkeypatch.setattr(efficientad, "SCHEDULE", schedule)
    monkeypatch.setattr(efficientad, "measured_seconds", lambda *_: seconds)
    limits = {"member.max_steps": None, "member.max_minutes": minutes}
    ensemble = tiled("efficientad", **limits, **options).method
    shape, expected = WorkingShape((SIDE, SIDE), (SIDE, SIDE)), 60 * (minutes or 10.0)
    for learner in ensemble.learner(shape, 10).learners:
        assert learner.budget.n_steps(10) == pytest.approx(expected / n_turns / 0.01, abs=1)
    assert ensemble.cost(shape, 10).seconds == pytest.approx(expected, rel=0.02)


def test_tiles_that_train_at_a_time_share_less(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    assert tiled("efficientad", engine="ray", stride=TILE).method.n_at_once == 4
    assert tiled("efficientad", engine="ray", stride=TILE, workers=2).method.n_at_once == 2
    for n_at_once, share in ((1, 1 / 9), (2, 1 / 5), (4, 1 / 3), (8, 1 / 2), (9, 1), (20, 1)):
        assert tiled_cluster.turn_share(9, n_at_once) == share


def test_a_worker_takes_its_turn_among_those_that_are_there(pictures, monkeypatch):
    tasks = []

    class TwoAtOnce:
        """A cluster of two CPUs in this process."""

        n_at_once, n_threads = 2, torch.get_num_threads()

        def __init__(self, *_, **__):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def put(self, value):
            return value

        def run(self, function, arguments, on_wait):
            tasks.extend(arguments)
            return [(i, function(*each)) for i, each in enumerate(arguments)]

    shares, original = [], budget.Budget._minutes
    monkeypatch.setattr(budget.Budget, "_minutes", lambda self: shares.append(self.time_share) or original(self))
    monkeypatch.setattr(tiled_cluster, "Cluster", TwoAtOnce)
    monkeypatch.setattr(tiled_cluster, "fetch", lambda given: given)
    tiled("efficientad", engine="ray", stride=TILE).fit(pictures[:8])
    assert len(tasks) == 4
    assert set(shares) == {1 / 2}  # four tiles, two at a time


def test_progress_never_goes_back_where_tiles_train_for_a_time(pictures):
    seen = []
    limits = {"member.max_steps": None, "member.max_minutes": 0.1}
    ensemble = tiled("efficientad", stride=TILE, **limits)
    ensemble.fit(pictures, on_progress=seen.append)
    told = [(p.done, p.total) for p in seen if p.stage == "training"]
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    n_steps = sum(int(member_state(ensemble.state_, i)["n_steps"]) for i in range(4))
    assert told[-1] == (n_steps, n_steps)


@pytest.mark.parametrize("n_folds", [2, 5])
def test_folds_on_a_cluster_are_refused_before_the_work(pictures, n_folds, monkeypatch):
    monkeypatch.setattr("admodels.pictures.images.read_ahead", lambda *_: pytest.fail("pictures were read"))
    ensemble = tiled(engine="ray")
    for ask in (ensemble.fit, lambda images, n_folds: ensemble.estimate(inspect_set(images), n_folds=n_folds)):
        with pytest.raises(admodels.OptionError, match="Use n_folds=0"):
            ask(pictures, n_folds=n_folds)


def test_a_saved_ensemble_names_every_option_of_its_members():
    """Else a default that changes later would change its scores; what it does not name is as it was before."""
    config = admodels.create("tiled", method="fapm", member={"norm_power": 0.25}).config
    stored = config.stored()
    assert stored["member"]["layers"] == config.member_config().layers
    assert type(config).from_stored(stored) == config
    for name in ("norm_power", "layers"):
        del stored["member"][name]
    old = type(config).from_stored(stored).member_config()
    assert (old.norm_power, old.layers) == (0.5, "8,16")
    stored["member"]["image_size"] = 64
    with pytest.raises(admodels.OptionError, match="follows from the ensemble's own"):
        type(config).from_stored(stored)
