"""Options of a detector: frozen dataclasses whose fields carry their help, choices and range.

The command line, the app and the validation all read them from here, so that a new method adds none of the three.
"""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from admodels.errors import OptionError

__all__ = ["Options", "accepted_types", "make_options", "option"]

LARGEST = 2**53  # whole numbers up to it are exact wherever they are computed with; not even infinity is larger
MAX_SAID = 100  # characters of a wrong value
WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    dict: "options by name",
    type(None): "none",
}


def option(
    default: Any,
    help: str,
    *,
    choices: tuple | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    for_all: tuple[str, ...] | None = None,
    before: Any = None,
    common: bool = False,
) -> Any:
    """A dataclass field with what a user needs to know about it.

    Args:
        default: an empty dict for an option that holds options itself; every instance gets its own.
        for_all: for an option that may reach the machine's files or other machines: the values that do not, which
            anybody may be allowed.
        before: what models did that were saved without naming this option; None where that is the default.
        common: one of the few that many change; the app shows the others to experts only.
    """
    metadata = {
        "help": help,
        "choices": choices,
        "minimum": minimum,
        "maximum": maximum,
        "for_all": for_all,
        "before": before,
        "common": common,
    }
    first = {"default_factory": default.copy} if isinstance(default, dict) else {"default": default}
    return dataclasses.field(**first, metadata=metadata)


@dataclass(frozen=True)
class Options:
    """Base of all option dataclasses; checks types, choices and ranges when built.

    Raises:
        OptionError: a value is of the wrong type, not among the choices, or out of range.
    """

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _checked(field, getattr(self, field.name)))

    def stored(self) -> dict[str, Any]:
        """Every option by name, as a saved model names them: a default may change after it was saved."""
        return dataclasses.asdict(self)

    @classmethod
    def from_stored(cls, values: Mapping[str, Any]) -> Self:
        """Options from what a saved model names; the others are as they were when they could not be named yet.

        Raises:
            OptionError: as `make_options`.
        """
        before = {field.name: field.metadata["before"] for field in dataclasses.fields(cls)}
        return make_options(cls, {name: value for name, value in before.items() if value is not None} | dict(values))


def make_options(cls: type[Options], values: Mapping[str, Any]) -> Options:
    """Build options from a mapping; text values, as from a command line, are converted to the field's type.

    Options of an option, where a field holds some, may be given one by one as `field.name`.

    Raises:
        OptionError: an unknown name (with the nearest valid one), or a wrong value.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}
    valid = list(fields)
    values = _nested(fields, values)
    for name in values:
        if name not in valid:
            near = difflib.get_close_matches(str(name), valid, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise OptionError(f"unknown option {name!r}.{hint} Valid options: {', '.join(valid)}.")
    return cls(**{name: _from_text(fields[name], value) for name, value in values.items()})


def _nested(fields: Mapping[str, dataclasses.Field], values: Mapping[str, Any]) -> dict[str, Any]:
    """`group.name` values, for a field that holds options itself, gathered under the field's name."""
    gathered: dict[str, Any] = {}
    for name, value in values.items():
        group, _, rest = str(name).partition(".")
        if rest and group in fields and dict in accepted_types(fields[group]):
            given = gathered.get(group, values.get(group, {}))
            if not isinstance(given, Mapping):
                raise OptionError(f"{group} is {given!r}; expected its options by name.")
            gathered[group] = {**given, rest: value}
        elif name not in gathered:
            gathered[name] = value
    return gathered


def accepted_types(field: dataclasses.Field) -> tuple[type, ...]:
    """The types a field accepts, for example (int, NoneType) for `int | None`."""
    if isinstance(field.type, types.UnionType):
        return typing.get_args(field.type)
    return (field.type,)


def _from_text(field: dataclasses.Field, value: Any) -> Any:
    wanted = accepted_types(field)
    if not isinstance(value, str) or wanted == (str,):
        return value
    text = value.strip().lower()
    if type(None) in wanted and text in ("none", "null", ""):
        return None
    if bool in wanted and text in ("true", "false", "yes", "no", "1", "0", "on", "off"):
        return text in ("true", "yes", "1", "on")
    for number in (int, float):
        if number in wanted:
            try:
                return number(text)
            except ValueError:
                continue
    return value  # left as it is; the check that follows says what was expected


def _checked(field: dataclasses.Field, value: Any) -> Any:
    wanted = accepted_types(field)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and not abs(value) <= LARGEST:
        raise OptionError(f"{field.name} is {_shortened(value)}; expected {_expected(field)}.")
    if float in wanted and is_number:
        value = float(value)
    if int in wanted and isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
        raise OptionError(f"{field.name} is {_shortened(value)}; expected {_expected(field)}. {field.metadata['help']}")
    choices, minimum, maximum = (field.metadata[key] for key in ("choices", "minimum", "maximum"))
    if choices is not None and value not in choices:
        raise OptionError(f"{field.name} is {_shortened(value)}; expected one of {', '.join(map(str, choices))}.")
    if value is None or isinstance(value, bool | str):
        return value
    if not ((minimum is None or value >= minimum) and (maximum is None or value <= maximum)):
        raise OptionError(f"{field.name} is {value}; expected {_expected(field)}.")
    return value


def _expected(field: dataclasses.Field) -> str:
    """What a field takes, in words: "a whole number from 1 to 64, or none"."""
    minimum, maximum = field.metadata["minimum"], field.metadata["maximum"]
    if minimum is not None and maximum is not None:
        bounds = f" from {minimum} to {maximum}"
    elif minimum is not None:
        bounds = f" of at least {minimum}"
    else:
        bounds = f" of at most {maximum}" if maximum is not None else ""
    words = [WORDS[kind] + (bounds if kind in (int, float) else "") for kind in accepted_types(field)]
    return " or ".join(words) if len(words) < 2 or not bounds else f"{', '.join(words[:-1])}, or {words[-1]}"


def _shortened(value: Any) -> str:
    """As Python writes it, without what would fill a screen."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > LARGEST:
        return f"a number of {int((value.bit_length() - 1) * math.log10(2)) + 1} digits"
    text = repr(value)
    return text if len(text) <= MAX_SAID else text[:MAX_SAID] + "…"
