"""The two ends of an exported graph: pixels as Pillow resizes them, and maps as PyTorch does, in every runtime here."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from admodels.deploy.nodes import map_nodes, resize_nodes
from admodels.deploy.runtimes import OnnxRuntime, OpenVino
from admodels.pictures.working_shape import WorkingShape

helper = pytest.importorskip("onnx", reason="the packages for exporting are not installed").helper
SHAPES = [
    WorkingShape((64, 96), (64, 96)),
    WorkingShape((50, 70), (33, 64)),  # neither divides into blocks, and a crop that cannot lie in the middle
    WorkingShape((256, 224), (224, 192)),
]


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """For each shape, what each runtime makes of pixels: prepared ones, and the map of a map."""
    import onnx

    made = {}
    for shape in SHAPES:
        small = [1, 7, 11]
        graph = helper.make_graph(
            [],
            "ends",
            [helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, ["H", "W", 3])],
            [
                helper.make_tensor_value_info("prepared", onnx.TensorProto.UINT8, [1, *shape.cropped, 3]),
                helper.make_tensor_value_info("map", onnx.TensorProto.FLOAT, ["H", "W"]),
            ],
            [onnx.numpy_helper.from_array(_map(small), "small")],
        )
        resize_nodes(graph, "image", shape, "prepared")
        map_nodes(graph, "small", "image", shape, "map")
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        onnx.checker.check_model(model, full_check=True)
        path = tmp_path_factory.mktemp("ends") / "ends.onnx"
        onnx.save(model, path)
        made[shape] = [OnnxRuntime(path), OpenVino(path)]
    return made


def _map(size):
    return np.random.default_rng(0).standard_normal(size).astype(np.float32)


@settings(max_examples=60)
@given(shape=st.sampled_from(SHAPES), height=st.integers(16, 700), width=st.integers(16, 700), seed=st.integers(0, 99))
def test_pixels_are_those_that_pillow_gives(ends, shape, height, width, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    for runtime in ends[shape]:
        np.testing.assert_array_equal(runtime([pixels])[0].outputs["prepared"][0], shape.prepare(pixels))


@pytest.mark.parametrize("size", [(16, 6000), (6000, 16), (448, 512), (128, 192), (3000, 2000), (64, 96)])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_long_large_and_halfway_pictures_too(ends, shape, size):
    # Sizes with a common divisor put many values halfway between two grey levels; so do steps.
    rng = np.random.default_rng(1)
    pixels = np.where(rng.random((*size, 3)) < 0.5, 0, 255).astype(np.uint8)
    for runtime in ends[shape]:
        np.testing.assert_array_equal(runtime([pixels])[0].outputs["prepared"][0], shape.prepare(pixels))


@settings(max_examples=40)
@given(shape=st.sampled_from(SHAPES), height=st.integers(16, 700), width=st.integers(16, 700))
def test_maps_lie_where_the_library_lays_them(ends, shape, height, width):
    pixels = np.zeros((height, width, 3), np.uint8)
    expected = shape.to_original(torch.from_numpy(_map([1, 7, 11])[0]), (height, width))
    for runtime in ends[shape]:
        # NaN stands where a crop left the border out.
        np.testing.assert_allclose(runtime([pixels])[0].outputs["map"], expected, rtol=0, atol=1e-4)
