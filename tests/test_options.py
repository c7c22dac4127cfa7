import json
import math
from dataclasses import asdict, dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from admodels.errors import OptionError
from admodels.options import Options, make_options, option


@dataclass(frozen=True)
class Sample(Options):
    count: int = option(4, "How many.", minimum=1, maximum=9)
    share: float = option(0.5, "How much.", minimum=0, maximum=1)
    crop: int | None = option(None, "Cut.", minimum=32)
    fast: bool = option(True, "Quick.")
    weight: float | str = option("auto", "How heavy.")
    kind: str = option("a", "Which.", choices=("a", "b"))


def test_text_becomes_the_fields_type():
    made = make_options(Sample, {"count": "7", "share": "0.25", "crop": "none", "fast": "false", "kind": "b"})
    assert made == Sample(7, 0.25, None, False, kind="b")
    assert make_options(Sample, {"crop": "224"}).crop == 224


def test_whole_numbers_may_come_as_floats_and_the_other_way_round():
    assert Sample(count=3.0, share=1) == Sample(count=3, share=1.0)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"cuont": 1}, "Did you mean 'count'"),
        ({"count": "many"}, "'many'; expected a whole number from 1 to 9. How many"),
        ({"count": 10}, "from 1 to 9"),
        ({"count": True}, "expected a whole number"),
        ({"share": float("nan")}, "from 0 to 1"),
        ({"share": "1e999"}, "from 0 to 1"),
        ({"weight": float("nan")}, "is nan; expected a number or text"),
        ({"weight": float("inf")}, "is inf; expected a number or text"),
        ({"weight": 10**400}, "is a number of 400 digits; expected a number or text"),
        ({"crop": 10**400}, "a number of 400 digits; expected a whole number of at least 32, or none"),
        ({"crop": "9" * 5000}, "expected a whole number of at least 32, or none"),
        ({"crop": 31}, "is 31; expected a whole number of at least 32, or none"),
        ({"kind": "x" * 10**6}, "…; expected one of a, b"),
        ({"fast": "perhaps"}, "expected true or false"),
        ({"kind": "c"}, "one of a, b"),
        ({"crop": "wide"}, "a whole number of at least 32, or none"),
    ],
)
def test_wrong_values_say_what_was_expected(values, said):
    with pytest.raises(OptionError, match=said) as caught:
        make_options(Sample, values)
    assert len(str(caught.value)) < 300


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.lists(st.integers())


@given(st.dictionaries(st.sampled_from(["count", "share", "crop", "fast", "weight", "kind"]), VALUES))
def test_any_value_is_taken_and_finite_or_refused_by_us(values):
    try:
        made = make_options(Sample, values)
    except OptionError:
        return
    assert all(math.isfinite(v) for v in asdict(made).values() if isinstance(v, int | float))
    assert json.loads(json.dumps(asdict(made))) == asdict(made)


@dataclass(frozen=True)
class Later(Sample):
    kind: str = option("b", "Which; it was a.", choices=("a", "b"), before="a")


def test_an_option_that_a_saved_model_does_not_name_is_as_it_was():
    assert Later.from_stored({"count": 7}) == Later(count=7, kind="a")
    assert Later.from_stored(Later().stored()) == Later(kind="b")
    assert make_options(Later, {"count": 7}).kind == "b"
    with pytest.raises(OptionError, match="unknown option"):
        Later.from_stored({"cuont": 7})
