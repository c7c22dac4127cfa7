"""Pictures: files and what is in them, the working shape, drawing, defects made by hand."""

from admodels.pictures import defects
from admodels.pictures.decoding import encoded_bytes
from admodels.pictures.frames import glance, is_alike
from admodels.pictures.images import (
    SUFFIXES,
    DecodedImage,
    ImageLike,
    ImageSet,
    Listing,
    content_digest,
    decode,
    decode_all,
    extract_zip,
    inspect_set,
    list_images,
    list_zip,
    picture_name,
    unpack,
)
from admodels.pictures.picture_files import READABLE, sort_out
from admodels.pictures.render import (
    THUMBNAIL_SIDE,
    as_address,
    as_jpeg,
    colour_table,
    overlay,
    rarity,
    shrink,
    stamp,
    thumbnail,
)
from admodels.pictures.value_range import choose_value_range
from admodels.pictures.working_shape import WorkingShape

__all__ = [
    "READABLE",
    "SUFFIXES",
    "THUMBNAIL_SIDE",
    "DecodedImage",
    "ImageLike",
    "ImageSet",
    "Listing",
    "WorkingShape",
    "as_address",
    "as_jpeg",
    "choose_value_range",
    "colour_table",
    "content_digest",
    "decode",
    "decode_all",
    "defects",
    "encoded_bytes",
    "extract_zip",
    "glance",
    "inspect_set",
    "is_alike",
    "list_images",
    "list_zip",
    "overlay",
    "picture_name",
    "rarity",
    "shrink",
    "sort_out",
    "stamp",
    "thumbnail",
    "unpack",
]
