"""The figures' one style, attention maps and alternative text.

Chapter: How the figures are made
Exported from chapters/90_figures.md; edit it there, not here.
"""

import html
import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
from IPython.display import display
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from torch import Tensor

__all__ = ["COLOURS", "STYLE", "WEIGHTS", "attention_grid", "attention_map", "figure_svg", "glue", "show"]

# Okabe and Ito's colours: told apart by colour-blind readers, visible on white and on black.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
STYLE: dict[Any, Any] = {
    "axes.prop_cycle": plt.cycler(color=COLOURS),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.figsize": (6.4, 3.2),
    "figure.constrained_layout.use": True,
    "font.size": 11,
    "legend.frameon": False,
    "lines.linewidth": 2,
    "savefig.transparent": True,
    "svg.fonttype": "none",  # letters stay letters: small files, and the reader's own font
    "svg.hashsalt": "attention",  # the same figure gives the same file
}
plt.rcParams |= STYLE


def figure_svg(figure: Figure, alt: str) -> str:
    """The figure as SVG that takes the colour of the text around it and says `alt` to a screen reader.

    Raises ValueError if `alt` is empty.
    """
    if not alt.strip():
        raise ValueError("alt must say what one sees in the figure, for whoever cannot see it")
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    svg = file.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r"#000000|#000(?=[;\"])", "currentColor", svg)
    svg = re.sub(r"'DejaVu Sans'[^;\"]*sans-serif", "sans-serif", svg)
    return svg.replace("<svg ", f'<svg fill="currentColor" role="img" aria-label="{html.escape(alt)}" ', 1)


def show(figure: Figure, alt: str) -> None:
    """Put the figure under the cell. `alt` says what one sees, for whoever cannot see it."""
    display({"image/svg+xml": figure_svg(figure, alt), "text/plain": f"Figure: {alt}"}, raw=True)
    plt.close(figure)


WEIGHTS = LinearSegmentedColormap.from_list("weights", ["#2E86C100", "#2E86C1FF"])  # 0 is see-through


def attention_map(
    ax: Axes,
    weights: Float[Tensor, "queries keys"],
    queries: Sequence[str],
    keys: Sequence[str],
    title: str = "",
) -> None:
    """Draw one attention map: a row per query, a column per key, the bluer the larger the weight (0 to 1)."""
    ax.imshow(weights.detach().float().cpu().numpy(), cmap=WEIGHTS, vmin=0, vmax=1, interpolation="none")
    ax.set_xticks(range(len(keys)), keys, rotation=90)
    ax.set_yticks(range(len(queries)), queries)
    ax.set_title(title, fontsize="medium")


def attention_grid(
    weights: Float[Tensor, "heads queries keys"], queries: Sequence[str], keys: Sequence[str]
) -> Figure:
    """A figure with the maps of all heads side by side."""
    width, height = 0.4 + 0.22 * len(keys), 1.0 + 0.22 * len(queries)
    size = (0.6 + len(weights) * width, height)
    figure, axes = plt.subplots(1, len(weights), squeeze=False, sharey=True, figsize=size)
    for head, (ax, one) in enumerate(zip(axes[0], weights, strict=True), start=1):
        attention_map(ax, one, queries, keys, f"head {head}")
    return figure


def glue(name: str, value: object) -> None:
    """Remember a value under `name`, so that the text of the page can quote it with the role glue:text."""
    kind = "application/papermill.record/"
    metadata = {"scrapbook": {"name": name, "mime_prefix": kind}}
    display({f"{kind}text/plain": repr(value)}, metadata=metadata, raw=True)
