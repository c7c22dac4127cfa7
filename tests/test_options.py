from dataclasses import dataclass

import pytest

from admodels.errors import OptionError
from admodels.options import Options, make_options, option


@dataclass(frozen=True)
class Sample(Options):
    count: int = option(4, "How many.", minimum=1, maximum=9)
    share: float = option(0.5, "How much.", minimum=0, maximum=1)
    crop: int | None = option(None, "Cut.", minimum=32)
    fast: bool = option(True, "Quick.")
    kind: str = option("a", "Which.", choices=("a", "b"))


def test_text_becomes_the_fields_type():
    made = make_options(Sample, {"count": "7", "share": "0.25", "crop": "none", "fast": "false", "kind": "b"})
    assert made == Sample(7, 0.25, None, False, "b")
    assert make_options(Sample, {"crop": "224"}).crop == 224


def test_whole_numbers_may_come_as_floats_and_the_other_way_round():
    assert Sample(count=3.0, share=1) == Sample(count=3, share=1.0)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"cuont": 1}, "Did you mean 'count'"),
        ({"count": "many"}, "expected int"),
        ({"count": 10}, "from 1 to 9"),
        ({"count": True}, "expected int"),
        ({"share": float("nan")}, "from 0 to 1"),
        ({"fast": "perhaps"}, "expected bool"),
        ({"kind": "c"}, "one of a, b"),
        ({"crop": "wide"}, "int or none"),
    ],
)
def test_wrong_values_say_what_was_expected(values, said):
    with pytest.raises(OptionError, match=said):
        make_options(Sample, values)
