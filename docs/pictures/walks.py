"""How the kernels walk the data: a box is one vector, its number the order, its colour the thread, or the work-group of an OpenCL device."""

from matplotlib import pyplot as plt
from matplotlib.patches import FancyArrowPatch, Rectangle

BLUE, RED, GREY = "#bcd3ea", "#f2c4bb", "#eef1f4"
GROUPS = (BLUE, RED, "#cfe5cd", "#eedfb6")
INK = "#33475b"


def cells(axes, rows, columns, x=0, y=0, colour="white"):
    for i in range(rows):
        for j in range(columns):
            axes.add_patch(Rectangle((x + j, y + i), 1, 1, facecolor=colour, edgecolor="#d4dae0", linewidth=0.6))


def vector(axes, i, j, height, width, colour, label=""):
    box = Rectangle((j + 0.06, i + 0.06), width - 0.12, height - 0.12, facecolor=colour, edgecolor=INK, linewidth=1)
    axes.add_patch(box)
    axes.text(j + width / 2, i + height / 2, label, ha="center", va="center", fontsize=9, color=INK)


def note(axes, x, y, text, **options):
    axes.text(x, y, text, fontsize=9, color=INK, **{"ha": "left", "va": "center", **options})


def arrow(axes, start, end):
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=10, color=INK, linewidth=1, shrinkA=0, shrinkB=0))


def finish(axes, title, width, height):
    axes.set_xlim(-0.3, width + 0.3)
    axes.set_ylim(height + 0.3, -0.3)
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.set_title(title, fontsize=10)


def side_by_side(*walks, height=2.6):
    _, grid = plt.subplots(1, len(walks), figsize=(8.6, height), squeeze=False)
    for axes, walk in zip(grid[0], walks):
        walk(axes)


# --- The walks ---------------------------------------------------------------------------------------------------------------


def along_rows(axes):
    cells(axes, 4, 16)
    for i in range(4):
        for j in range(4):
            vector(axes, i, 4 * j, 1, 4, BLUE if i < 2 else RED, 4 * (i % 2) + j + 1)
    note(axes, 0, 4.7, "lanes: neighbours in a row; two threads")
    finish(axes, "rows", 16, 5)


def down_columns(axes):
    cells(axes, 4, 16)
    for i in range(4):
        for j in range(4):
            vector(axes, i, 4 * j, 1, 4, BLUE if j < 2 else RED, 4 * (j % 2) + i + 1)
    note(axes, 0, 4.7, "axis 0: lanes are neighbouring columns")
    finish(axes, "columns", 16, 5)


def short_rows(axes):
    cells(axes, 8, 5)
    for block in range(2):
        for j in range(5):
            vector(axes, 4 * block, j, 4, 1, BLUE if block == 0 else RED, j + 1)
    note(axes, 5.6, 4, "rows of 5:\nlanes are\nfour rows,\nturned in\nregisters")
    finish(axes, "short", 9, 8)


def split_row(axes):
    for k in range(8):
        vector(axes, 0, 2 * k, 1, 2, BLUE if k < 4 else RED, k % 4 + 1)
        arrow(axes, (2 * k + 1, 1.1), (2 * k + 1, 2))
        vector(axes, 2, 2 * k + 0.4, 1, 1.2, GREY, "s")
        if k:
            arrow(axes, (2 * k - 0.4, 2.5), (2 * k + 0.4, 2.5))
    note(axes, 0, 3.7, "chunks of one row; their states merge in order")
    finish(axes, "split", 16, 4)


def tiles(axes):
    for y, name in enumerate(("x", "y", "r", "f")):
        at = 1.3 * y + (0.7 if name == "f" else 0)
        note(axes, -0.3, at + 0.5, name, ha="right")
        for k in range(8):
            vector(axes, at, 2 * k, 1, 2, BLUE if k < 4 else RED, k % 4 + 1)
    for k in range(8):
        arrow(axes, (2 * k + 1, 3.65), (2 * k + 1, 4.55))
    finish(axes, "map: tile after tile, all operands of one before the next", 16, 5.8)


def packed_windows(axes):
    colours = (BLUE, RED)
    for j in range(16):
        vector(axes, 0, j, 1, 1, colours[j % 2], j)
    for tap in range(2):
        for k in range(8):
            vector(axes, 2.2, 8 * tap + k, 1, 1, colours[tap], 2 * k + tap)
        note(axes, 8 * tap + 4, 3.7, f"slot of tap {tap}", ha="center")
    arrow(axes, (4, 1.1), (4, 2.1))
    arrow(axes, (12, 1.1), (12, 2.1))
    for k in range(2):
        vector(axes, 4.6, 4 + 4 * k, 1, 4, GREY, f"outputs {4 * k} to {4 * k + 3}")
    note(axes, 0, 6.2, "stride 2: a tap of neighbouring outputs is a vector")
    finish(axes, "channels first: packed", 16, 6.4)


def across_channels(axes):
    cells(axes, 6, 8)
    for i in range(6):
        for j in range(2):
            vector(axes, i, 4 * j, 1, 4, BLUE if i < 3 else RED, 2 * (i % 3) + j + 1)
    note(axes, -0.3, 3, "pixels", rotation=90, ha="right")
    note(axes, 4, 6.6, "channels: the lanes", ha="center")
    finish(axes, "channels last: as they lie", 8, 6.8)


def strips(axes):
    for i in range(6):
        vector(axes, i, 0, 1, 1, GREY)
    note(axes, 0.5, -0.5, "w", ha="center")
    for strip in range(2):
        for i in range(6):
            vector(axes, i, 2 + 8 * strip, 1, 8, BLUE, 6 * strip + i + 1)
        vector(axes, 7.2, 2 + 8 * strip, 1, 8, GREY, "o")
        arrow(axes, (6 + 8 * strip, 6.1), (6 + 8 * strip, 7.1))
    note(axes, 10, -0.5, "x: n rows", ha="center")
    finish(axes, "", 18, 8.4)
    axes.set_ylim(8.6, -1)


def tiles_of_scores(axes, along_queries):
    for i in range(4):
        for j in range(4):
            skipped, first = j > i, (i if along_queries else j) < 2
            order = j + 1 if along_queries else i - j + 1
            vector(axes, 1.5 * i, 3 * j, 1.5, 3, GREY if skipped else BLUE if first else RED, "" if skipped else order)
    note(axes, -0.3, 3, "queries", rotation=90, ha="right")
    note(axes, 6, -0.5, "chunks of keys", ha="center")


def strips_of_queries(axes):
    tiles_of_scores(axes, True)
    for i in range(4):
        arrow(axes, (12.1, 1.5 * i + 0.75), (13, 1.5 * i + 0.75))
        vector(axes, 1.5 * i + 0.2, 13.1, 1.1, 2.6, GREY, "m, l, o")
    finish(axes, "forward, causal", 16, 8)
    axes.set_ylim(8.3, -1)


def chunks_of_keys(axes):
    tiles_of_scores(axes, False)
    for j in range(4):
        arrow(axes, (3 * j + 1.5, 6.1), (3 * j + 1.5, 6.8))
        vector(axes, 6.9, 3 * j + 0.2, 1.1, 2.6, GREY, "dk, dv")
    for i in range(4):
        arrow(axes, (12.1, 1.5 * i + 0.75), (13, 1.5 * i + 0.75))
        vector(axes, 1.5 * i + 0.2, 13.1, 1.1, 2.6, GREY, "dq")
    finish(axes, "backward, causal", 16, 8)
    axes.set_ylim(8.3, -1)


# --- The walks of OpenCL devices ---------------------------------------------------------------------------------------------


def on_device(axes, title, words, shape, boxes, *, beside=1, height=1, width=2):
    """Boxes (row, column, group, step) of a work-item each, or of `beside` neighbours that take their step together, over a grid."""
    rows, columns = shape
    cells(axes, rows, columns)
    for i, j, group, step in boxes:
        for k in range(beside):
            vector(axes, i, j + k * width, height, width, GROUPS[group], step)
    note(axes, 0, rows + 0.8, words)
    finish(axes, title, columns, rows + 1.2)


def rows_on_cpu(axes):
    boxes = [(i, 4 * j, i // 2, 4 * (i % 2) + j + 1) for i in range(4) for j in range(4)]
    on_device(axes, "a CPU: whole rows", "a group is one work-item", (4, 16), boxes, width=4)


def rows_on_gpu(axes):
    boxes = [(i, 8 * j, i // 2, 2 * (i % 2) + j + 1) for i in range(4) for j in range(2)]
    on_device(axes, "a GPU: work-items share a row", "four of a group take a step together", (4, 16), boxes, beside=4)


def slabs_on_cpu(axes):
    boxes = [(i, 8 * group + 2 * j, group, 4 * i + j + 1) for group in range(2) for i in range(4) for j in range(4)]
    on_device(axes, "a CPU, axis 0: slabs", "lanes are columns; a stretch of each row", (4, 16), boxes)


def parts_on_device(axes):
    for launch, y in ((1, 0), (2, 2.2)):
        for k in range(8):
            vector(axes, y, 2 * k, 1, 2, GROUPS[k // 2], k % 2 + 1)
        note(axes, -0.3, y + 0.5, f"{launch}.", ha="right")
    for k in range(4):
        arrow(axes, (4 * k + 2, 1.05), (4 * k + 2, 2.15))
        note(axes, 4 * k + 2.2, 1.6, "state")
    note(axes, 0, 4, "a part to a group, twice: each joins all states")
    finish(axes, "a long row: two launches", 16, 4.4)


def chunks_on_cpu(axes):
    boxes = [(i, 8 * k + 2 * j, k, j + 1) for i in range(4) for k in range(2) for j in range(4)]
    on_device(axes, "a CPU: a chunk to a work-item", "x, y, r and f, a vector of each at a time", (4, 16), boxes)


def chunks_on_gpu(axes):
    boxes = [(i, 8 * k + 4 * j, k, j + 1) for i in range(4) for k in range(2) for j in range(2)]
    on_device(axes, "a GPU: a chunk to a work-group", "four work-items take a step together", (4, 16), boxes, beside=4, width=1)


def windows_on_cpu(axes):
    boxes = [(i, 4 * j, i // 2, 2 * (i % 2) + j + 1) for i in range(4) for j in range(2)]
    on_device(axes, "a CPU: a stretch of results", "max_pool: a vector", (4, 8), boxes, width=4)


def windows_on_gpu(axes):
    boxes = [(i, 4 * k, k, i + 1) for i in range(4) for k in range(2)]
    on_device(axes, "a GPU: neighbours at a time", "a result to a work-item", (4, 8), boxes, beside=4, width=1)


def planes_on_device(axes):
    cells(axes, 4, 9)
    for k, (colour, places) in enumerate(((BLUE, [(0, 1), (1, 3), (3, 0), (2, 2)]), (RED, [(0, 2), (1, 0), (2, 3), (3, 1)]))):
        for order, (i, j) in enumerate(places, 1):
            vector(axes, i, 5 * k + j, 1, 1, colour, order)
    axes.add_patch(Rectangle((4.03, -0.05), 0.94, 4.1, facecolor="white", edgecolor="none"))
    note(axes, 0, 4.8, "indices say where")
    finish(axes, "max_pool_backward: a plane each", 9, 5.2)


def weights_on_device(axes):
    for i in range(6):
        vector(axes, i, 0, 1, 1, GREY)
    note(axes, 0.5, -0.5, "w", ha="center")
    for group in range(2):
        for i in range(6):
            vector(axes, i, 2 + 4 * group, 1, 4, GROUPS[group], i + 1)
        arrow(axes, (4 + 4 * group, 6.1), (4 + 4 * group, 7.1))
        vector(axes, 7.2, 2 + 4 * group, 1, 4, GREY, "o")
    note(axes, 6, -0.5, "x: n rows", ha="center")
    finish(axes, "", 10, 8.4)
    axes.set_title("softmax_gate: w, and then x", fontsize=10, pad=12)
    axes.set_ylim(8.6, -1)


def best_on_device(axes):
    for k, found in enumerate((5, 2)):
        at = 3 * k
        for j in range(8):
            vector(axes, at, 2 * j, 1, 2, GREY if j == found else BLUE, j + 1)
        arrow(axes, (2 * found + 1, at + 1.1), (2 * found + 1, at + 1.8))
        note(axes, 2 * found + 1.4, at + 1.7, ("the largest", "the next below it")[k])
    note(axes, 0, 5.8, "k passes over a row, by a work-group")
    finish(axes, "topk_gate: one by one", 16, 6.2)


def tiles_on_device(axes, keys_stay):
    for i in range(4):
        for j in range(4):
            stay, step = (j, i - j + 1) if keys_stay else (i, j + 1)
            vector(axes, 1.5 * i, 3 * j, 1.5, 3, GREY if j > i else GROUPS[stay], "" if j > i else step)
    note(axes, -0.3, 3, "queries", rotation=90, ha="right")
    note(axes, 6, -0.5, "keys", ha="center")
    for k in range(4):
        if keys_stay:
            arrow(axes, (3 * k + 1.5, 6.1), (3 * k + 1.5, 6.8))
            vector(axes, 6.9, 3 * k + 0.2, 1.1, 2.6, GREY, "dk, dv")
        else:
            arrow(axes, (12.1, 1.5 * k + 0.75), (13, 1.5 * k + 0.75))
            vector(axes, 1.5 * k + 0.2, 13.1, 1.1, 2.6, GREY, "o; dq")
    title = "backward, second: keys stay" if keys_stay else "forward; backward, first: queries stay"
    finish(axes, title, 16, 8)
    axes.set_ylim(8.3, -1)


def queries_stay(axes):
    tiles_on_device(axes, False)


def keys_stay(axes):
    tiles_on_device(axes, True)


# --- The pages ---------------------------------------------------------------------------------------------------------------


def maxima():
    side_by_side(along_rows, down_columns, height=2)


def softmax():
    _, grid = plt.subplots(2, 2, figsize=(8.6, 4.8))
    for axes, walk in zip(grid.flat, (along_rows, down_columns, short_rows, split_row)):
        walk(axes)


def losses():
    side_by_side(along_rows, split_row, height=2)


def pooling():
    side_by_side(packed_windows, across_channels, height=2.7)


def gates():
    _, axes = plt.subplots(figsize=(6.5, 2.6))
    tiles(axes)


def mixtures():
    _, axes = plt.subplots(figsize=(6.5, 3.4))
    strips(axes)


def attention():
    side_by_side(strips_of_queries, chunks_of_keys, height=2.6)


def maxima_opencl():
    side_by_side(rows_on_cpu, rows_on_gpu, height=2)


losses_opencl = maxima_opencl


def softmax_opencl():
    _, grid = plt.subplots(2, 2, figsize=(8.6, 4.2))
    for axes, walk in zip(grid.flat, (rows_on_cpu, rows_on_gpu, slabs_on_cpu, parts_on_device)):
        walk(axes)


def pooling_opencl():
    side_by_side(windows_on_cpu, windows_on_gpu, planes_on_device, height=2.2)


def gates_opencl():
    side_by_side(chunks_on_cpu, chunks_on_gpu, height=2)


def mixtures_opencl():
    side_by_side(weights_on_device, best_on_device, height=3)


def attention_opencl():
    side_by_side(queries_stay, keys_stay, height=2.6)
