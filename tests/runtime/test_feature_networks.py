"""Networks of timm: which maps they give, for which pictures, and what building one leaves alone."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import timm
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import admodels
from admodels.methods.feature_maps import parse_layers
from admodels.runtime.backbone_specs import KNOWN_BACKBONES, backbone_spec, full_name
from admodels.runtime.feature_networks import core_network, for_any_size
from admodels.runtime.networks import build_network, draw_weights
from tests.conftest import SMALL

OURS = ("efficientnet_lite0", "efficientnet_lite2", "resnet18", "wide_resnet50_2", "efficientnet_b0", "efficientnet_b5")
OTHERS = ("vit_small_patch14_dinov2", "test_vit", "test_convnext", "swin_tiny_patch4_window7_224", "hrnet_w18_small")
sides = st.integers(32, 161)


def on_meta(name):
    """The network without memory: it gives the sizes of maps, and takes no time."""
    spec = backbone_spec(full_name(name))
    with torch.device("meta"):
        return for_any_size(core_network(spec.architecture), spec.architecture, spec.strides)


@pytest.mark.parametrize("name", [*OURS, *OTHERS])
def test_maps_are_as_large_as_is_said_for_any_picture(name):
    network, spec = on_meta(name), backbone_spec(full_name(name))

    @settings(max_examples=6)
    @given(sides, sides)
    @example(65, 97)
    def check(height, width):
        with torch.inference_mode():
            maps = network(torch.empty(1, 3, height, width, device="meta"))
        sizes = spec.map_sizes((height, width))
        assert [tuple(m.shape[1:]) for m in maps] == [(c, *s) for c, s in zip(spec.channels, sizes, strict=True)]

    check()


@pytest.mark.parametrize("name", KNOWN_BACKBONES)
def test_the_table_says_what_timm_says(name):
    spec = backbone_spec(name)
    with torch.device("meta"):
        whole = timm.create_model(spec.architecture.name)
        layers = dict(core_network(spec.architecture).named_modules())
    assert spec.n_parameters == sum(p.numel() for p in whole.parameters())
    assert set(spec.layers) <= set(layers)
    assert len(spec.layers) == len(spec.channels) == len(spec.strides)


def test_a_transformer_gives_several_maps_of_one_stride():
    spec = backbone_spec(full_name("vit_small_patch14_dinov2"))
    assert spec.layers == ("blocks.5", "blocks.8")
    assert (spec.strides, spec.channels) == ((14, 14), (384, 384))
    assert parse_layers("14", "vit_small_patch14_dinov2.lvd142m") == (0, 1)
    with pytest.raises(admodels.OptionError, match=r"dinov2\.lvd142m has 14: use layers=14"):
        admodels.create("fapm", backbone="vit_small_patch14_dinov2")


def test_a_transformers_map_is_its_tokens_where_they_were_cut():
    """A mark in one patch changes that patch's vector more than any other."""
    network = build_network("test_vit", pretrained=False)
    plain = torch.zeros(1, 3, 80, 112)
    marked = plain.clone()
    marked[:, :, 16:32, 64:80] = 3
    with torch.inference_mode():
        first = (network(marked)[0] - network(plain)[0]).norm(dim=1)[0]
    assert tuple(first.shape) == (5, 7)
    assert divmod(int(first.argmax()), 7) == (1, 4)


def test_a_picture_is_padded_only_where_its_size_asks_for_it():
    network = build_network("test_convnext", pretrained=False)
    x = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for ours, theirs in zip(network(x), network.core(x), strict=True):
            assert torch.equal(ours, theirs)
        for whole, part in zip(network(x), network(x[:, :, :63, :95]), strict=True):
            assert whole.shape == part.shape


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet19", "Did you mean .*resnet18"),
        ("efficientnet_lite00", "Did you mean efficientnet_lite0"),
        ("vit_smal_patch14_dinov2", "vit_small_patch14_dinov2"),
        ("resnet50.tv2", "resnet50.tv2_in1k"),
        ("beit_base_patch16_224", "does not give feature maps for pictures of any size"),
        ("efficientnet_lite3", "nobody published weights .* weights=FILE"),
        ("", "which nobody knows"),
        ("hf-hub:owner/name", "which nobody knows"),
    ],
)
def test_what_is_no_backbone_is_refused_with_what_to_do(name, said):
    with pytest.raises(admodels.OptionError, match=said) as caught:
        admodels.create("padim", backbone=name)
    assert "efficientnet_lite0" in str(caught.value) or "weights=FILE" in str(caught.value)


def test_a_name_without_a_tag_is_kept_with_it():
    assert admodels.create("padim", backbone="resnet50").config.backbone == "resnet50.a1_in1k"
    assert full_name("resnet50") == "resnet50.a1_in1k"
    assert full_name("resnet18") == "resnet18"


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "swin_tiny_patch4_window7_224", "resnet18"])
def test_building_draws_nothing_and_random_weights_are_the_same_ones(name):
    before = torch.random.get_rng_state()
    first, same = (build_network(name, pretrained=False).state_dict() for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert all(torch.isfinite(t).all() for t in first.values() if t.is_floating_point())


def test_a_network_with_hooks_serves_several_threads():
    """timm keeps what a hook saw in the network, where another thread's pass would take it away."""
    spec = backbone_spec(full_name("test_vit"))
    core = core_network(spec.architecture)
    draw_weights(core)
    core.hooks = True  # as a network with hooks looks
    network = for_any_size(core, spec.architecture, spec.strides).eval()
    assert network.alone is not None
    pictures = torch.randn(8, 1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(), ThreadPoolExecutor(4) as pool:
        expected = [network(x)[0].clone() for x in pictures]
        for found, wanted in zip(pool.map(lambda x: network(x)[0].detach(), pictures), expected, strict=True):
            assert torch.allclose(found, wanted, atol=1e-5)


def test_timm_is_imported_only_where_a_network_is_built():
    program = (
        "import sys, admodels\n"
        "for name in ('efficientnet_lite2', 'resnet18'):\n"
        "    admodels.create('padim', device='cpu', backbone=name)\n"
        "assert 'timm' not in sys.modules and 'torchvision' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


@pytest.mark.parametrize("method", ["fapm", "padim", "padim_isvd", "patchcore"])
def test_every_method_learns_from_a_transformers_maps(method, normals, tmp_path):
    path = tmp_path / "random.pt"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(timm.create_model("test_vit").state_dict(), path)
    more = {"layers": "16"} if method in ("fapm", "patchcore") else {}
    detector = admodels.create(
        method, device="cpu", **SMALL[method] | {"backbone": "test_vit", "weights": str(path)} | more
    )
    detector.fit(normals[:8])
    assert detector.predict(normals[0]).score >= 0
