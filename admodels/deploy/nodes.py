"""The two ends of an exported graph, which take pictures of any size: resizing at its start, maps at its end.

They are written in ONNX by hand, since other runtimes resize in their own ways. ONNX's own antialiased `Resize` is not
Pillow's: ONNX Runtime 1.32 is up to 20 grey levels apart in 1 % of the values, and OpenVINO 2026.4 leaves antialiasing
out without a word, which makes up to 140. Here it is two matrix products, which give Pillow's grey levels.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from admodels.pictures.working_shape import WorkingShape

if TYPE_CHECKING:
    from onnx import GraphProto

HALF_BITS = 2.0**11  # of the 22 that Pillow's weights have
BLOCK = 16  # rows of the result that one product makes, of all the rows that they depend on


class Nodes:
    """Adds nodes to a graph; every value is known by its name.

    Args:
        graph: where they go.
        prefix: of their names.
    """

    def __init__(self, graph: "GraphProto", prefix: str) -> None:
        self._graph, self._prefix, self._n = graph, prefix, 0

    def add(self, op: str, *inputs: str | int | Sequence[int], out: str | None = None, **attributes: Any) -> str:
        """One node with one result, whose name is given back; numbers among its inputs become int64 constants."""
        from onnx import helper

        names = [given if isinstance(given, str) else self.constant(given) for given in inputs]
        result = out or self._name(op.lower())
        self._graph.node.append(helper.make_node(op, names, [result], result, **attributes))
        return result

    def constant(self, value: Any, dtype: type = np.int64) -> str:
        """A tensor that is part of the file."""
        from onnx import numpy_helper

        name = self._name("constant")
        self._graph.initializer.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def cast(self, value: str, dtype: type, out: str | None = None) -> str:
        """A value as numbers of another type."""
        from onnx import helper

        return self.add("Cast", value, out=out, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def side(self, value: str, axis: int) -> str:
        """How long a value is along an axis: int64 (1,)."""
        return self.add("Shape", value, start=axis, end=axis + 1)

    def halves(self, value: str, n: int) -> tuple[str, str]:
        """The first n and the next n of a value (B, 2n, K)."""
        return self.add("Slice", value, [0], [n], [1]), self.add("Slice", value, [n], [2 * n], [1])

    def _name(self, what: str) -> str:
        self._n += 1
        return f"{self._prefix}_{what}_{self._n}"


def resize_nodes(graph: "GraphProto", image: str, shape: WorkingShape, out: str) -> None:
    """Resize and crop as `WorkingShape.prepare` does: uint8 (H, W, 3) of any size to uint8 (1, h, w, 3)."""
    nodes = Nodes(graph, "resize")
    (height, width), (h, w) = shape.resized, shape.cropped
    columns = nodes.add("Transpose", image, perm=[1, 0, 2])
    resized = _resized(nodes, columns, width)  # width first, as Pillow has it, and whole grey levels in between
    resized = _resized(nodes, nodes.add("Transpose", resized, perm=[1, 0, 2]), height)
    if shape.cropped != shape.resized:
        top, left = (height - h) // 2, (width - w) // 2
        resized = nodes.add("Slice", resized, [top, left], [top + h, left + w], [0, 1])
    nodes.add("Unsqueeze", resized, [0], out=out)


def _resized(nodes: Nodes, rows: str, n_to: int) -> str:
    """uint8 (N, K, 3) to uint8 (n_to, K, 3): each row is a weighted mean of those around it.

    Every `BLOCK` rows of the result come from a window of rows, so that big pictures cost little. In units of half a
    row divided by `n_to`, a row x lies at (2x + 1)·n_to and the middle of the result's row j at (2j + 1)·N: whole
    numbers, which no runtime rounds.
    """
    add, n_from = nodes.add, nodes.side(rows, 0)
    n_blocks = -(-n_to // BLOCK)
    made = np.minimum(np.arange(n_blocks * BLOCK), n_to - 1).reshape(n_blocks, BLOCK)  # the last may repeat
    reach = add("Mul", add("Max", n_from, n_to), [2])  # of the triangle, to each side

    # How long each window is, and where it starts; with a row to spare, since some runtimes divide whole numbers as
    # fractions.
    span = add("Div", add("Add", add("Mul", n_from, [BLOCK - 1]), reach), [n_to])
    length = add("Min", n_from, add("Add", span, [4]))
    first = add("Add", add("Sub", add("Mul", n_from, nodes.constant(2 * made[:, 0] + 1)), reach), [-n_to])
    start = add("Div", add("Max", first, [0]), [2 * n_to])
    start = add("Min", start, add("Sub", n_from, length))  # (n_blocks,)
    steps = add("Range", nodes.constant(0), add("Squeeze", length, [0]), nodes.constant(1))
    window = add("Add", add("Unsqueeze", start, [1]), steps)  # (n_blocks, length)

    # The triangle, (n_blocks, BLOCK, length), in whole numbers.
    places = add("Mul", add("Add", add("Mul", window, [2]), [1]), [n_to])
    middles = add("Mul", n_from, nodes.constant(2 * made[:, :, None] + 1))
    heights = add("Max", add("Sub", reach, add("Abs", add("Sub", add("Unsqueeze", places, [1]), middles))), [0])
    upper, lower = _weights(nodes, heights)

    taken = add("Gather", rows, window, axis=0)  # (n_blocks, length, K, 3)
    flat = add("Reshape", taken, add("Concat", [n_blocks], length, add("Mul", nodes.side(rows, 1), [3]), axis=0))
    sums = add("MatMul", add("Concat", upper, lower, axis=1), nodes.cast(flat, np.float32))  # (n_blocks, 2·BLOCK, K·3)
    whole = nodes.cast(_rounded(nodes, *nodes.halves(sums, BLOCK)), np.uint8)
    size = add("Concat", [n_blocks * BLOCK], nodes.side(rows, 1), [3], axis=0)
    result = add("Reshape", whole, size)
    return result if n_blocks * BLOCK == n_to else add("Slice", result, [0], [n_to], [0])


def _weights(nodes: Nodes, heights: str) -> tuple[str, str]:
    """Each height divided by their sum, in units of 2⁻²² as Pillow has it: the upper and the lower 11 of those bits.

    Both are whole numbers in float32. The upper ones may be one too small or too large; the lower ones make up for it.
    """
    add, total = nodes.add, nodes.add("ReduceSum", heights, [2], keepdims=1)
    total_float, unit = nodes.cast(total, np.float32), nodes.constant(HALF_BITS, np.float32)
    upper = add("Floor", add("Mul", add("Div", nodes.cast(heights, np.float32), total_float), unit))
    rest = add("Sub", add("Mul", heights, [int(HALF_BITS)]), add("Mul", nodes.cast(upper, np.int64), total))
    lower = add("Mul", add("Div", nodes.cast(rest, np.float32), total_float), unit)
    return upper, add("Floor", add("Add", lower, nodes.constant(0.5, np.float32)))


def _rounded(nodes: Nodes, upper: str, lower: str) -> str:
    """The grey levels next to sums in units of 2⁻¹¹ and 2⁻²² of one; float32 holds every step exactly."""
    add, unit = nodes.add, nodes.constant(HALF_BITS, np.float32)
    level = add("Floor", add("Div", upper, unit))
    rest = add("Sub", upper, add("Mul", level, unit))
    beyond = add("Div", add("Add", add("Mul", rest, unit), lower), nodes.constant(HALF_BITS**2, np.float32))
    return add("Add", level, add("Floor", add("Add", beyond, nodes.constant(0.5, np.float32))))


def map_nodes(graph: "GraphProto", found: str, image: str, shape: WorkingShape, out: str) -> None:
    """Bring a map float32 (1, h', w') to the size of the image, as `WorkingShape.to_original` does; (H, W)."""
    nodes = Nodes(graph, f"resize_{out}")
    add = nodes.add
    sides = [nodes.side(image, axis) for axis in (0, 1)]
    starts, ends = [], []
    for n, full, cut in zip(sides, shape.resized, shape.cropped, strict=True):
        before = (full - cut) // 2
        for edges, at in ((starts, before), (ends, before + cut)):
            edges.append(add("Div", add("Add", add("Mul", n, [2 * at]), [full]), [2 * full]))
    inner = [add("Sub", end, start) for start, end in zip(starts, ends, strict=True)]
    is_whole = shape.cropped == shape.resized
    sizes = add("Concat", [1, 1], *(sides if is_whole else inner), axis=0)
    large = add(
        "Resize",
        add("Unsqueeze", found, [0]),
        "",
        "",
        sizes,
        mode="linear",
        coordinate_transformation_mode="half_pixel",
    )
    if is_whole:
        add("Squeeze", large, [0, 1], out=out)
        return
    beyond = [add("Sub", n, end) for n, end in zip(sides, ends, strict=True)]
    pads = add("Concat", *starts, *beyond, axis=0)
    add("Pad", add("Squeeze", large, [0, 1]), pads, nodes.constant(np.nan, np.float32), out=out)
