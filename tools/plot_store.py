"""The picture of tools/bench_store.py: for each pattern, time over its bound against the share of the weights that has room."""

from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator
from PIL import Image  # comes with matplotlib

# Three of Okabe and Ito's colours, which are apart from each other for colour-blind eyes too.
COLOURS = {"lru": "#D55E00", "belady": "#009E73", "plan": "#0072B2"}  # what comes last is drawn on top
MARKERS = {"lru": ("s", 10.0), "belady": ("^", 8.0), "plan": ("o", 5.0)}  # where lines coincide, all marks are seen
INK, PALE = "#222222", "#d9d9d9"
STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that the picture is the same everywhere
    "font.size": 12,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#888888",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
}
COLUMN_INCHES, ROW_INCHES, DPI = 2.9, 2.5, 150  # four columns fill the width of a README at half the dots
MOST_COLOURS = 64  # a palette takes a third of the bytes


def draw(result: dict[str, Any], path: Path) -> None:
    """Write a PNG: a row of panels for each ratio, a column for each pattern."""
    rows = result["rows"]
    ratios = list(dict.fromkeys(row["ratio"] for row in rows))
    patterns = list(dict.fromkeys(row["pattern"] for row in rows))
    top = 1.1 * max(row["time_over_bound"] for row in rows)
    with plt.rc_context(STYLE):
        size = (COLUMN_INCHES * len(patterns) + 0.7, ROW_INCHES * len(ratios) + 1.2)
        figure, axes = plt.subplots(len(ratios), len(patterns), figsize=size, sharex=True, sharey=True, squeeze=False)
        for panels, ratio in zip(axes, ratios, strict=True):
            for panel, pattern in zip(panels, patterns, strict=True):
                draw_panel(panel, [row for row in rows if (row["ratio"], row["pattern"]) == (ratio, pattern)], top)
            panels[0].set_ylabel(f"reading all takes\n{ratio:g} × the computing")
        for panel, pattern in zip(axes[0], patterns, strict=True):
            panel.set_title(pattern, fontsize=14, fontweight="bold", pad=8)
        figure.legend(handles=legend(rows), loc="upper right", ncols=4, frameon=False, fontsize=13, bbox_to_anchor=(0.995, 1.0))
        figure.text(0.012, 0.965, "Time of a pass ÷ the least that any store needs", va="center", fontsize=16)
        figure.text(0.5, 0.035, "share of the weights that has room in memory", ha="center", va="center")
        figure.tight_layout(rect=(0, 0.045, 1, 0.945), w_pad=1.0, h_pad=1.2)
        save(figure, path)
        plt.close(figure)


def save(figure: Figure, path: Path) -> None:
    dots = BytesIO()
    figure.savefig(dots, dpi=DPI, facecolor="white")
    with Image.open(dots) as image:
        image.convert("RGB").quantize(MOST_COLOURS, dither=Image.Dither.NONE).save(path, "PNG", optimize=True)


def draw_panel(panel: Any, rows: list[dict[str, Any]], top: float) -> None:
    """Lines of one pattern at one ratio. The scale is of factors: 2 is as far from 1 as 4 from 2."""
    shares = sorted({row["residency"] for row in rows})
    for policy, colour in COLOURS.items():
        for prefetch in (False, True):
            line = [row for row in rows if (row["policy"], row["prefetch"]) == (policy, prefetch)]
            x, y = [row["residency"] for row in line], [row["time_over_bound"] for row in line]
            panel.plot(x, y, color=colour, **look(policy, prefetch))
    panel.set_yscale("log", base=2)
    panel.set_ylim(0.93, top)
    panel.set_yticks([tick for tick in (1, 1.5, 2, 3, 4, 6, 8, 12, 16) if tick <= top])
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    panel.yaxis.set_minor_locator(NullLocator())
    panel.set_xticks(shares, [f"{share}%" for share in shares])
    panel.set_xlim(min(shares) - 6, max(shares) + 6)
    panel.grid(axis="y", color=PALE, linewidth=0.8)
    panel.axhline(1, color="#888888", linewidth=1.2, zorder=1)
    panel.set_axisbelow(True)
    panel.tick_params(length=0, pad=5)


def look(policy: str, prefetch: bool) -> dict[str, Any]:
    """Read ahead: a full line with full marks. Else dashed, with hollow ones."""
    marker, n_points = MARKERS[policy]
    return {
        "marker": marker,
        "markersize": n_points,
        "markeredgewidth": 1.5,
        "markerfacecolor": None if prefetch else "white",
        "linewidth": 2.4 if prefetch else 1.5,
        "linestyle": "-" if prefetch else (0, (3, 2)),
        "clip_on": False,
    }


def legend(rows: list[dict[str, Any]]) -> list[Line2D]:
    there = {row["policy"] for row in rows}
    policies = [policy for policy in ("plan", "lru", "belady") if policy in there]
    return [Line2D([], [], color=COLOURS[p], label=p, **look(p, True)) for p in policies] + [
        Line2D([], [], color=INK, label="not reading ahead", **{**look("plan", False), "marker": ""})
    ]
