"""The words for choosing a method stand for what they say, and nothing else is trained."""

import dataclasses
import json
import re

import pytest
from gradio_client import handle_file

import admodels
from admodels.tiling import TiledEnsemble
from demo.tabs import choices, tiles
from demo.tabs.choices import CHOICES, USUAL
from demo.tabs.fitting import collect_options

WORDS = pytest.mark.parametrize("choice", CHOICES, ids=[choice.word for choice in CHOICES])


def controls(word, **changed):
    """The values of all controls after a word was chosen, in the order of `collect_options`, some changed by hand."""
    shown = choices.choose(word) | changed
    names = ["on", *(f"tiles.{f.name}" for f in tiles.FIELDS)]
    names += [f"{key}.{f.name}" for key, cls in admodels.METHODS.items() for f in dataclasses.fields(cls.Config)]
    return [shown["method"]["value"], *(shown[name] for name in names)]


@WORDS
def test_what_a_word_shows_is_what_it_stands_for_and_fits(client, specks, choice):
    method, options = collect_options(*controls(choice.word))
    assert (method, json.loads(options)) == choice.asked()
    files = [handle_file(str(path)) for path in specks.train[:8]]
    summary, _, report = client.predict(files, method, 0.1, options, 0, "auto", api_name="/fit")
    assert report["method"] == method
    assert choice.title in summary
    rows = client.predict([handle_file(str(specks.test[0].path))], api_name="/score")
    assert rows[0]["score"] > 0


def test_the_words_stand_for_different_things_and_the_first_page_for_the_defaults():
    asked = [json.dumps(choice.asked()) for choice in CHOICES]
    assert len(set(asked)) == len(CHOICES) == len({choice.word for choice in CHOICES})
    assert USUAL.asked() == (next(iter(admodels.METHODS)), {})
    labels = [label for label, _ in choices.radio().choices]
    for label, choice in zip(labels, CHOICES, strict=False):
        assert label.startswith(f"{choice.word}\n{choice.title}{choice.how}. ")


@WORDS
def test_what_a_word_sets_is_among_the_common_options(choice):
    config = admodels.METHODS[choice.method].Config
    for cls, names in ((config, choice.options), (TiledEnsemble.Config, choice.tiles or {})):
        assert set(names) <= {f.name for f in dataclasses.fields(cls) if f.metadata["common"]}


@pytest.mark.parametrize("method", sorted(admodels.DETECTORS))
def test_every_method_has_a_few_common_options(method):
    fields = dataclasses.fields(admodels.DETECTORS[method].Config)
    common = [field.name for field in fields if field.metadata["common"]]
    assert 1 <= len(common) <= 4
    assert "image_size" in common


def test_a_change_by_hand_is_said():
    said = choices.will_train("Fast", *controls("Fast"))["summary"]
    assert "with FAPM: image size 192." in said
    assert "changed" not in said
    said = choices.will_train("Fast", *controls("Fast", **{"fapm.image_size": 320, "fapm.adaptive": False}))["summary"]
    assert "with FAPM: image size 320, adaptive off. You changed this from “Fast”." in said
    word = next(choice.word for choice in CHOICES if choice.tiles is not None)
    said = choices.will_train(word, *controls(word, **{"fapm.coreset_ratio": 0.1}))["summary"]
    assert re.search("with Tiled ensemble of FAPM: .*coreset ratio 0.1. You changed this", said)
    # By its name nothing was promised, so nothing was changed.
    said = choices.will_train(choices.ANOTHER, "padim", *controls("Fast")[1:])["summary"]
    assert "changed" not in said
    assert admodels.METHODS["padim"].summary in said
