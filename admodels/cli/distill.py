"""The command `distill`."""

from pathlib import Path
from typing import Annotated

import typer

import admodels
from admodels.cli.terminal import (
    Device,
    Seed,
    above_zero,
    say,
)
from admodels.efficientad.distill import Logged, Recipe
from admodels.efficientad.distill import distill as run_distillation
from admodels.evaluation.datasets import normal_images
from admodels.files import check_file

RECIPE = Recipe()


def distill(
    images: Annotated[list[Path], typer.Option(help="Folder of any pictures; repeatable.")],
    out: Annotated[
        Path, typer.Option(help="The teacher's file, .safetensors; an unfinished run beside it is resumed.")
    ],
    backbone: Annotated[str, typer.Option(help="The network to learn from.")] = RECIPE.backbone,
    layers: Annotated[str, typer.Option(help="Which of its feature maps, by position from fine to coarse.")] = ",".join(
        map(str, RECIPE.layers)
    ),
    size: Annotated[str, typer.Option(help="small or medium.")] = RECIPE.size,
    minutes: Annotated[float, typer.Option(help="Training time in minutes.")] = RECIPE.minutes,
    batch_size: Annotated[int, typer.Option(help="Crops in each step.")] = RECIPE.batch_size,
    scale: Annotated[
        int, typer.Option(help="How many times larger the backbone sees each crop: 1 or 2.")
    ] = RECIPE.scale,
    seed: Seed = RECIPE.seed,
    device: Device = "auto",
) -> None:
    """Distil a backbone into a patch description network: a teacher for efficientad.

    Example: python -m admodels distill --images photos --images textures --minutes 120 --out teacher.safetensors
    """
    given = tuple(part.strip() for part in layers.split(","))
    if not all(part.isdigit() for part in given):
        raise admodels.OptionError(f"--layers is {layers!r}; expected positions separated by commas, such as 0,1,2.")
    if out.suffix != ".safetensors":  # else the log, or the unfinished run, could be the file itself
        raise admodels.OptionError(f"--out is {out}; expected a file that ends in .safetensors.")
    check_file(out, "--out")
    above_zero([minutes], "--minutes")
    recipe = Recipe(backbone, tuple(map(int, given)), size, minutes, batch_size, seed=seed, scale=scale)
    found = [path for folder in images for path in normal_images(folder)]
    say(f"{len(found)} pictures.")

    def told(line: Logged) -> None:
        say(f"step {line.step}, {line.seconds / 60:.1f} min, loss {line.loss:.4f}, held out {line.held_out_loss:.4f}")

    run_distillation(found, out, recipe, device=device, on_log=told)
    say(f"Written to {out}. Use it with --option teacher={out}")
