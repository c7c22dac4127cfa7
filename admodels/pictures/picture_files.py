"""Where pictures lie: which files of a folder or of a zip archive are pictures, and which are passed over.

What a name says counts; a name without a suffix is judged by how its contents begin. Hidden files and what systems and
programs leave behind are nobody's pictures and are not mentioned; everything else that is passed over is counted.
"""

import os
import stat
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image

from admodels.errors import ImageError
from admodels.limits import limit

# Pillow can open more, some of it by starting other programs. MPO, several pictures in one file, comes with JPEG.
# A test compares the suffixes with Pillow's own table.
FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
SUFFIXES = frozenset(
    {
        *(".apng", ".avif", ".avifs", ".bmp", ".dib", ".gif", ".j2c", ".j2k", ".jfif", ".jp2", ".jpc", ".jpe", ".jpeg"),
        *(".jpf", ".jpg", ".jpx", ".mpo", ".pbm", ".pfm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
    }
)
READABLE = "PNG, JPEG, BMP, TIFF, WebP, GIF, AVIF, JPEG 2000 or PPM"
# Made by file managers, cameras, network drives and editors; compared without regard to case.
LITTER_FOLDERS = frozenset(
    {"__macosx", "@eadir", "__pycache__", "#recycle", "$recycle.bin", "system volume information", "lost+found"}
)
LITTER_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"})
N_NAMED = 5  # of what was passed over

# A host can set others, as environment variables that begin with ADMODELS_.
MAX_MEGAPIXELS = 100
MAX_ZIP_PICTURES = 20_000
MAX_ZIP_GIB = 8
MAX_ZIP_RATIO = 200  # a photograph compresses by far less; a decompression bomb by far more
MAX_BYTES_PER_PIXEL = 8  # of a file without compression: four channels of 16 bits


@dataclass(frozen=True)
class Listing:
    """What was found in a folder or an archive.

    Attributes:
        images: the pictures, sorted by name.
        passed_over: names of files that are no pictures by their name, and of folders inside, which are not looked
            into; hidden ones and litter are left out.
    """

    images: list
    passed_over: tuple[str, ...] = ()

    @property
    def statement(self) -> str:
        """What was passed over, in one sentence; empty where nothing was."""
        n = len(self.passed_over)
        if not n:
            return ""
        named = ", ".join(self.passed_over[:N_NAMED]) + (", …" if n > N_NAMED else "")
        said = "1 entry is not a picture and was" if n == 1 else f"{n} entries are not pictures and were"
        return f"{said} skipped: {named}."


@dataclass(frozen=True)
class ZipPicture:
    """One picture inside a zip archive; it is read from the archive when it is needed and never extracted to disk.

    Attributes:
        archive: the archive's file.
        member: its name there.
        number: its place among the members, which tells two of one name apart.
    """

    archive: Path
    member: str
    number: int | None = None


def is_litter(*names: str) -> bool:
    """Whether a file or folder of this name, or below folders of these names, is hidden or left by some program."""
    return any(name.startswith(".") or name.lower() in LITTER_FOLDERS or name.lower() in LITTER_FILES for name in names)


def listing(folder: str | Path) -> Listing:
    """The pictures directly in `folder`."""
    return sort_out(sorted(Path(folder).iterdir()))


def sort_out(paths: Iterable[Path]) -> Listing:
    """Which of these are pictures, in their order."""
    images, passed_over = [], []
    for path in paths:
        if is_litter(path.name):
            continue
        # A broken link to a picture is listed, so that whoever reads it says so.
        if not path.is_dir() and (path.suffix.lower() in SUFFIXES or (not path.suffix and _begins_like_one(path))):
            images.append(path)
        else:
            passed_over.append(path.name + ("/" if path.is_dir() else ""))
    return Listing(images, tuple(passed_over))


def list_images(folder: str | Path) -> list[Path]:
    """All picture files directly in `folder`, sorted by name."""
    return listing(folder).images


def zip_listing(archive: str | Path) -> Listing:
    """The pictures (`ZipPicture`) in a zip archive; folders inside are looked into.

    Raises:
        ImageError: not a zip archive, encrypted, without pictures, or unreasonably large once unpacked.
    """
    archive = Path(archive)
    found: list[tuple[str, int, zipfile.ZipInfo]] = []
    passed_over = []
    with opened_zip(archive) as opened:
        members = [(number, m) for number, m in enumerate(opened.infolist()) if not m.filename.endswith(("/", "\\"))]
        for number, member in members:
            parts = member_parts(member.filename)
            if not parts or is_litter(*parts):
                continue
            suffix = PurePosixPath(parts[-1]).suffix.lower()
            is_link = stat.S_ISLNK(member.external_attr >> 16)
            if not is_link and (suffix in SUFFIXES or (not suffix and _member_begins_like_one(opened, member))):
                found.append(("/".join(parts), number, member))
            else:
                passed_over.append(parts[-1])
    if not found:
        raise ImageError(archive.name, f"holds {len(members)} files but no pictures; {READABLE} are read.")
    if any(member.flag_bits & 1 for _, _, member in found):
        raise ImageError(archive.name, "is encrypted. Upload an archive without a password.")
    unpacked = sum(member.file_size for _, _, member in found)
    packed = max(sum(member.compress_size for _, _, member in found), 1)
    most = limit("ADMODELS_MAX_ZIP_PICTURES", MAX_ZIP_PICTURES)
    gib, ratio = limit("ADMODELS_MAX_ZIP_GIB", MAX_ZIP_GIB), limit("ADMODELS_MAX_ZIP_RATIO", MAX_ZIP_RATIO)
    if len(found) > most or unpacked > gib * 2**30 or unpacked / packed > ratio:
        raise ImageError(
            archive.name,
            f"holds {len(found)} pictures of {unpacked / 2**20:.0f} MiB unpacked ({unpacked / packed:.0f} times its "
            f"packed size); at most {most:.0f} pictures, {gib:g} GiB and a ratio of {ratio:g} are "
            "accepted. Upload a smaller archive.",
        )
    found.sort(key=lambda item: item[:2])
    images = [ZipPicture(archive, member.filename, number) for _, number, member in found]
    return Listing(images, tuple(passed_over))


def list_zip(archive: str | Path) -> list[ZipPicture]:
    """All pictures in a zip archive, sorted by name; folders inside are allowed, other files are passed over.

    Raises:
        ImageError: as `zip_listing`.
    """
    return zip_listing(archive).images


def extract_zip(archive: str | Path, folder: str | Path) -> Listing:
    """Write the pictures of a zip archive into `folder`, in the folders they have in the archive; what was found there.

    Nothing is written outside, whatever the members are called, and two that would come out at one place get two.

    Raises:
        ImageError: as `list_zip`, a picture in it is damaged, or the folder cannot be written.
    """
    found = zip_listing(archive)
    with opened_zip(Path(archive)) as opened:  # once: to open a large one is to read its whole directory
        for picture in found.images:
            contents = _contents(opened, picture)
            target = Path(folder, *member_parts(picture.member))
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                number, wanted = 1, target
                while os.path.lexists(target):
                    number += 1
                    target = wanted.with_stem(f"{wanted.stem} ({number})")
                target.write_bytes(contents)
            except (OSError, ValueError) as error:
                raise ImageError(
                    Path(archive).name, f"could not be unpacked into {folder} ({error}). Make the archive again."
                ) from error
    return found


def member_parts(name: str) -> list[str]:
    """The folders and the name of a zip's member, none of which leads outside; old Windows tools write backslashes."""
    parts = name.replace("\\", "/").split("/")
    if len(parts[0]) == 2 and parts[0][1] == ":":  # a drive
        parts = parts[1:]
    return [part for part in parts if part not in ("", ".", "..")]


def read_member(picture: ZipPicture) -> bytes:
    """The contents of a picture in an archive, still encoded.

    Raises:
        ImageError: the archive or the picture in it is damaged, gone, or larger than a picture may be.
    """
    with opened_zip(picture.archive) as opened:
        return _contents(opened, picture)


@contextmanager
def opened_zip(archive: Path) -> Iterator[zipfile.ZipFile]:
    """An archive to read from; what is wrong with it as a whole is an `ImageError`."""
    try:
        opened = zipfile.ZipFile(archive)
    except Exception as error:  # a damaged directory leads to nearly any
        said = f"({error}). Upload a .zip, or the pictures themselves."
        raise ImageError(Path(archive).name, f"is not a readable zip archive {said}") from error
    with opened:
        yield opened


def check_bytes(n_bytes: int, name: str) -> None:
    """Refuse a file that is larger than any picture of the accepted size, before it is read.

    Raises:
        ImageError: it is.
    """
    most = max_megapixels() * 1e6 * MAX_BYTES_PER_PIXEL + 2**20
    if n_bytes > most:
        raise ImageError(
            name,
            f"has {n_bytes / 2**20:,.0f} MiB; at most {most / 2**20:,.0f} are accepted, as much as "
            f"{max_megapixels():g} megapixels can have. Scale it down or cut it into parts.",
        )


def max_megapixels() -> float:
    """The largest picture that is accepted."""
    ours, pillows = limit("ADMODELS_MAX_MEGAPIXELS", MAX_MEGAPIXELS), Image.MAX_IMAGE_PIXELS
    return min(ours, 2 * pillows // 10**6) if pillows else ours  # from twice its own on, Pillow refuses


def _contents(opened: zipfile.ZipFile, picture: ZipPicture) -> bytes:
    name = member_parts(picture.member)[-1]
    try:
        member = opened.getinfo(picture.member) if picture.number is None else opened.infolist()[picture.number]
    except (KeyError, IndexError) as error:
        raise ImageError(name, f"is no longer in {Path(picture.archive).name}. Make the archive again.") from error
    check_bytes(member.file_size, name)
    try:
        return opened.read(member)
    except Exception as error:  # each way of packing has its own
        raise ImageError(
            name,
            f"is damaged in {Path(picture.archive).name}, or packed in a way that cannot be read ({error}). Make "
            "the archive again.",
        ) from error


def _begins_like_one(path: Path) -> bool:
    try:
        if not path.is_file():  # a pipe would never end
            return False
        with path.open("rb") as opened:
            return _is_signature(opened.read(16))
    except OSError:
        return False


def _member_begins_like_one(opened: zipfile.ZipFile, member: zipfile.ZipInfo) -> bool:
    try:
        with opened.open(member) as stream:
            return _is_signature(stream.read(16))
    except Exception:  # damaged or encrypted, and no picture by its name
        return False


def _is_signature(start: bytes) -> bool:
    Image.init()
    # That of DIB is a small number, with which any file may begin.
    tests: Iterable = (Image.OPEN[kind][1] for kind in FORMATS if kind in Image.OPEN and kind != "DIB")
    return any(test is not None and test(start) is True for test in tests)
