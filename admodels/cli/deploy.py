"""The commands `export`, `compare-runtimes` and `page`, and `verify` for exported files."""

from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

import admodels
from admodels.cli.terminal import JsonFile, Rows, check_outputs, note, opened, pictures, say, write_json
from admodels.deploy.comparison import Compared, compare, pictures_of_all_kinds
from admodels.deploy.exporting import write_onnx
from admodels.deploy.onnx_file import read
from admodels.deploy.page import build_page
from admodels.deploy.runtimes import check_probe, runtimes_here
from admodels.deploy.space import push_page
from admodels.pictures.images import picture_name

Reference = Annotated[str, typer.Argument(help="A model: local:name, or hf-hub:owner/name@revision.")]
Assets = Annotated[
    Path | None, typer.Option(help="A folder with ONNX Runtime Web: its npm package, or the package's dist folder.")
]


def export(
    ref: Reference,
    file: Annotated[Path, typer.Argument(help="The file to write, such as bolts.onnx.")],
    precision: Annotated[str, typer.Option(help="float32, or int8 where it changes little.")] = "float32",
    good: Annotated[
        list[Path] | None, typer.Option(help="For int8: pictures of good parts, or a folder of them; repeatable.")
    ] = None,
    licence: Annotated[str, typer.Option(help="Licence of the model, for those who get the file.")] = "",
    data_terms: Annotated[str, typer.Option(help="Terms of use of the training pictures.")] = "",
) -> None:
    """Write a model as one ONNX file that scores alike in every runtime, without PyTorch and without this program.

    Example: python -m admodels export local:bolts bolts.onnx
    """
    given = pictures(good) if good else []
    about = {"licence": licence, "data_terms": data_terms}
    done = admodels.export(ref, file, precision=precision, good=given, **about)
    say(f"Wrote {done.path} ({done.size_mib:.1f} MiB). Its stored picture scores {done.probe_score:.6g}.")
    note(done.notices)
    say(f"Check it anywhere with: python -m admodels verify {done.path}")


def verify_file(path: Path, assets: Path | None) -> None:
    """Score the stored picture of an exported file with each runtime; exit status 1 if one of them differs."""
    file = read(path)
    table = Rows("runtime", "score", "expected", "verified")
    checks = check_probe(file, runtimes_here(path, assets))
    for check in checks:
        table.add_row(check.title, f"{check.score:.6g}", f"{file.probe_score:.6g}", "yes" if check.is_close else "NO")
    say(table)
    if not all(check.is_close for check in checks):
        raise typer.Exit(1)


def compare_runtimes(
    ref: Reference,
    data: Annotated[list[Path] | None, typer.Option(help="Further pictures, or a folder of them; repeatable.")] = None,
    assets: Assets = None,
    json_file: JsonFile = None,
) -> None:
    """Export a model and score pictures of all kinds with every runtime; exit status 1 if one differs from PyTorch.

    Example: python -m admodels compare-runtimes local:bolts --data test/
    """
    check_outputs(json_file=json_file)
    more = [(picture_name(picture), picture) for picture in (pictures(data) if data else [])]
    detector = opened(ref, "cpu")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write_onnx(detector, path)
        rows = compare(detector, path, runtimes_here(path, assets), [*pictures_of_all_kinds(), *more])
    runtimes = list(dict.fromkeys(row.runtime for row in rows))
    table = Rows("picture", "PyTorch", *runtimes, title="scores' difference; the map's largest; time of one run")
    n_pictures = len(rows) // len(runtimes)  # names may repeat: they are of several folders
    for i in range(n_pictures):
        of_picture = rows[i::n_pictures]
        table.add_row(of_picture[0].picture, f"{of_picture[0].expected:.6g}", *map(_cell, of_picture))
    say(table)
    write_json(json_file, [asdict(row) for row in rows])
    different = [row for row in rows if not row.is_equal]
    say(f"{len(rows) - len(different)} of {len(rows)} scores equal PyTorch's within 0.1 %, with the same verdict.")
    if different:
        raise typer.Exit(1)


def page(
    ref: Reference,
    out: Annotated[Path, typer.Option(help="A new or empty folder, or that of an earlier page.")],
    assets: Assets = None,
    cdn: Annotated[bool, typer.Option("--cdn", help="The page loads its runtime from jsDelivr, once.")] = False,
    push: Annotated[str | None, typer.Option(help="Also publish it as a static Space, owner/name.")] = None,
    private: Annotated[bool, typer.Option(help="Only matters if the Space is created now.")] = True,
    licence: Annotated[str, typer.Option(help="Licence of the model, for those who get the page.")] = "",
    data_terms: Annotated[str, typer.Option(help="Terms of use of the training pictures.")] = "",
) -> None:
    """Make a page without a server: static files that inspect pictures in the visitor's own browser.

    Example: python -m admodels page local:bolts --out site
    Then: python -m http.server --directory site
    """
    with TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        exported = admodels.export(ref, file, licence=licence, data_terms=data_terms)
        done = build_page(file, out, assets=assets, use_cdn=cdn)
    say(f"Wrote {done.folder} ({done.n_files} files, {done.size_mib:.1f} MiB).")
    note((*exported.notices, *done.notices))
    if push is not None:
        say(f"Pushed to {push_page(done.folder, push, private=private)}.")
    else:
        say(f"Look at it with: python -m http.server --directory {done.folder}")


def _cell(row: Compared) -> str:
    verdict = "" if row.is_same_verdict else "OTHER VERDICT, "
    return f"{verdict}{row.score_difference:.1e}; {row.map_difference:.1e}; {1e3 * row.seconds:.0f} ms"
