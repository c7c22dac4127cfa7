"""Which values of options visitors may send: those that reach neither the server's files nor other machines.

Values are looked at as they were sent. Building the options may already look at a file that one of them names.
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from admodels import DETECTORS, OptionError

# What the options of any method allow to all, by the option's name.
FOR_ALL = {
    field.name: field.metadata["for_all"]
    for method in DETECTORS.values()
    for field in dataclasses.fields(method.Config)
    if field.metadata["for_all"] is not None
}
# Of a model that is loaded: its other options reach something in a fit only, which the app does not do with it.
OF_MODELS = ("backbone", "weights")


def check(options: Mapping[str, Any], names: Collection[str] = FOR_ALL.keys()) -> None:
    """Refuse what reaches further; options of an option's own are looked at too, by `group.name` or nested.

    Args:
        options: by name, unchecked.
        names: those that are looked at.

    Raises:
        OptionError: a value is not among those for all.
    """
    for given, value in options.items():
        name = str(given).rpartition(".")[2]
        if isinstance(value, Mapping):
            check(value, names)
        elif name in names and value not in FOR_ALL[name]:
            raise OptionError(
                f"{name} is {value!r}; in the app it may be {' or '.join(FOR_ALL[name])}, for security: other values "
                "reach the server's files, its cluster or other machines. Use Python or the command line."
            )
