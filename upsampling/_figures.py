"""The figures of `upsampling.analysis.show`. They alone need matplotlib, of the extra `figures`."""

import functools
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from upsampling import _arguments, analysis, metrics
from upsampling.nn import registry

Kind = Literal["responses", "phases", "edge", "boundaries", "pictures"]
"""What `show` draws."""

Methods = Mapping[str, Any] | Sequence[str] | str
_Call = Callable[[Any, Any], Any]

# Okabe and Ito's colors, which color-blind readers tell apart, without the yellow that white swallows.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#B3578F", "#C98A00", "#2f9fd6", "#444450")
_DASHES = ("-", "--", "-.", ":")
_INK, _SOFT, _LINE, _TRUTH, _FOUND = "#1a1a1e", "#5c5c66", "#e0e1e6", "#0072B2", "#D55E00"
_STYLE = {
    "font.size": 10,
    "axes.edgecolor": _SOFT,
    "axes.labelcolor": _SOFT,
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
    "text.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": _LINE,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "upsampling",
}
_CELLS = 16  # the input of edges and boundaries, pixels


def show(
    methods: Methods,
    kind: Kind = "responses",
    *,
    scale: int = 2,
    picture: Any = None,
    guide: Any = None,
    columns: int = 3,
) -> Any:
    """See `upsampling.analysis.show`."""
    _arguments.one_of("show", "kind", kind, get_args(Kind))
    scale = _arguments.number("show", "scale", scale)
    columns = _arguments.number("show", "columns", columns)
    calls = {name: _call(given, scale) for name, given in _named(methods).items()}
    with _matplotlib().rc_context(_STYLE):
        if kind in ("responses", "phases", "edge"):
            if picture is not None or guide is not None:
                raise ValueError(f"show: kind={kind!r} takes no picture and no guide.")
            draw = {"responses": _responses, "phases": _phases, "edge": _edge}[kind]
            return draw(calls, scale, columns)
        truth = scene(scale) if picture is None else _checked(picture, "picture", scale)
        guide = truth if guide is None else _checked(guide, "guide", scale)
        if truth.shape[:2] != guide.shape[:2]:
            raise ValueError(f"show: guide must be of the picture's size {truth.shape[:2]}; got {guide.shape[:2]}.")
        draw = _boundaries if kind == "boundaries" else _pictures
        return draw(calls, scale, columns, truth, guide)


# --- what is shown ----------------------------------------------------------------------------------------------------


def _named(methods: Methods) -> dict[str, Any]:
    if isinstance(methods, str):
        methods = [methods]
    found = dict(methods) if isinstance(methods, Mapping) else {name: name for name in methods}
    if not found:
        raise ValueError("show: methods must hold at least one; got none.")
    return found


def _call(given: Any, scale: int) -> _Call:
    """A function of a picture `(h, w, c)` and a guide of the output's size, from a name, a layer or a function."""
    if isinstance(given, str):
        return functools.partial(_by_name, registry.lookup("show", given), scale)
    if not callable(given):
        raise TypeError(f"show: methods must be names, layers or functions; got {type(given).__name__}.")
    return lambda x, guide: given(x)


def _by_name(method: registry.Method, scale: int, x: Any, guide: Any) -> Any:
    variant = "features" if "features" in method.variants else None
    options: dict[str, Any] = {}
    if method.uses_guide and guide is not None and "guide_features" in method.options:
        options["guide_features"] = guide.shape[-1]
    layer = method.create(x.shape[-1], scale, rngs=nnx.Rngs(0), variant=variant, **options)
    if not method.uses_guide:
        return layer(x[None])[0]
    flat = jnp.zeros((x.shape[0] * scale, x.shape[1] * scale, x.shape[-1])) if guide is None else guide
    return layer(x[None], jnp.asarray(flat, x.dtype)[None])[0]


def _checked(given: Any, name: str, scale: int) -> np.ndarray:
    """A picture as floats `(H, W, channels)`."""
    found = np.asarray(given)
    found = found[..., None] if found.ndim == 2 else found
    if found.ndim != 3 or any(n % scale or n < scale for n in found.shape[:2]):
        raise ValueError(
            f"show: {name} must be (H, W) or (H, W, channels), both multiples of {scale}; got {found.shape}."
        )
    whole = found.dtype.kind in "bui"
    return found.astype(np.float64) / (np.iinfo(found.dtype).max if whole and found.dtype.kind != "b" else 1)


def scene(scale: int) -> np.ndarray:
    """A disc, thin lines and a corner, `(16 scale, 16 scale, 1)`, each pixel the share of it that they cover."""
    fine = 8
    at = (np.arange(_CELLS * scale * fine) + 0.5) / (scale * fine)
    rows, columns = np.meshgrid(at, at, indexing="ij")
    disc = np.hypot(rows - 5.2, columns - 5.3) < 3.1
    line = (np.abs(0.4 * (columns - 12.4) - (rows - 5.0) * 0.13) < 0.2) & (rows > 1.5) & (rows < 8.5)
    wedge = (rows > 9.6) & (rows < 14.2) & (columns - 1.8 > 1.6 * (rows - 9.6)) & (columns < 10.2)
    thin = (np.abs(rows - 10.2 - 0.35 * (columns - 11)) < 0.55) & (columns > 11.2) & (columns < 15)
    covered = (disc | line | wedge | thin).astype(np.float64)
    n = _CELLS * scale
    return covered.reshape(n, fine, n, fine).mean((1, 3))[..., None]


def smaller(picture: np.ndarray, scale: int) -> np.ndarray:
    """The mean of each cell, as float32."""
    height, width, channels = picture.shape
    cells = picture.reshape(height // scale, scale, width // scale, scale, channels)
    return cells.mean((1, 3)).astype(np.float32)


def _upsampled(call: _Call, picture: np.ndarray, guide: np.ndarray, scale: int, name: str) -> np.ndarray:
    y = np.asarray(call(jnp.asarray(smaller(picture, scale)), np.float32(guide)), np.float64)
    if y.shape[:2] != picture.shape[:2]:
        raise ValueError(f"show: {name!r} must make {picture.shape[:2]} pixels; it made {y.shape}.")
    return y


# --- waves ------------------------------------------------------------------------------------------------------------


def _linear(call: _Call) -> Callable[[jax.Array], jax.Array]:
    return lambda x: jnp.asarray(call(x, None))


def _responses(calls: Mapping[str, _Call], scale: int, columns: int) -> Any:
    figure, (axes,) = _sheet(1, 1, (7.4, 3.6))
    waves = np.linspace(0, scale / 2, 40 * scale + 1)
    for number, (name, call) in enumerate(calls.items()):
        response = analysis.impulse_response(_linear(call), scale=scale)
        amplitude = np.abs(analysis.frequency_response(response, scale, waves))
        axes.plot(waves, amplitude, label=name, **_look(number))
    axes.axvspan(0.5, scale / 2, color=_LINE, alpha=0.5, lw=0)
    axes.plot([0, 0.5, 0.5, scale / 2], [1, 1, 0, 0], color=_INK, lw=1, ls=(0, (1, 2)))
    axes.annotate("images: should be 0", (scale / 2, 1.01), color=_SOFT, ha="right", xycoords=("data", "axes fraction"))
    axes.set(xlabel="cycles per input pixel", ylabel="amplitude", xlim=(0, scale / 2), ylim=(0, None))
    axes.legend(loc="upper right", bbox_to_anchor=(1, 0.98))
    return figure


def _phases(calls: Mapping[str, _Call], scale: int, columns: int) -> Any:
    figure, grid = _sheet(len(calls), columns, (3.2, 2.6))
    waves = np.linspace(0, 0.5, 41)
    for axes, (name, call) in zip(grid, calls.items(), strict=True):
        response = analysis.impulse_response(_linear(call), scale=scale)
        for phase, of in enumerate(analysis.phase_responses(response, scale, waves)):
            axes.plot(waves, np.abs(of), label=f"phase {phase}", **_look(phase))
        axes.set(title=name, xlabel="cycles per input pixel", xlim=(0, 0.5), ylim=(0, 1.5))
    grid[0].set_ylabel("amplitude")
    grid[0].legend(loc="lower left", fontsize=8)
    return figure


# --- edges ------------------------------------------------------------------------------------------------------------


def edge_profile(call: _Call, scale: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An upright edge, 0.3 pixel into one, before and after: input values, places of output pixels, output values."""
    at = _CELLS // 2 + 0.3
    low = np.clip(np.arange(_CELLS) + 1 - at, 0, 1)
    x = np.tile(low.astype(np.float32), (_CELLS, 1))[..., None]
    guide = np.clip(np.arange(_CELLS * scale) + 1 - at * scale, 0, 1).astype(np.float32)
    y = np.asarray(call(jnp.asarray(x), np.tile(guide, (_CELLS * scale, 1))[..., None]), np.float64)
    middle = y[scale * _CELLS // 2 : scale * (_CELLS // 2 + 1), :, 0].mean(0)
    return low, (np.arange(_CELLS * scale) + 0.5) / scale - at, middle


def edge_figures(places: np.ndarray, values: np.ndarray) -> dict[str, float]:
    """Where an edge passes one half, how wide it is from 10 to 90 %, and by how much it leaves the range of 0 to 1."""
    crossings = [_crossing(places, values, level) for level in (0.1, 0.5, 0.9)]
    inner = np.abs(places) < _CELLS / 4
    beyond = max(0.0, values[inner].max() - 1, -values[inner].min())
    return {"place": crossings[1], "width": crossings[2] - crossings[0], "overshoot": float(beyond) + 0.0}


def _crossing(places: np.ndarray, values: np.ndarray, level: float) -> float:
    """The place next to the edge where the line through the values passes a level."""
    between = np.flatnonzero((values[:-1] < level) & (values[1:] >= level))
    if not between.size:
        return float("nan")
    i = between[np.argmin(np.abs(places[between]))]
    return float(places[i] + (places[i + 1] - places[i]) * (level - values[i]) / (values[i + 1] - values[i]))


def _edge(calls: Mapping[str, _Call], scale: int, columns: int) -> Any:
    figure, grid = _sheet(len(calls), columns, (3.1, 2.5), share=True)
    for number, (axes, (name, call)) in enumerate(zip(grid, calls.items(), strict=True)):
        low, places, values = edge_profile(call, scale)
        of = edge_figures(places, values)
        inputs = np.arange(_CELLS) + 0.5 - (_CELLS // 2 + 0.3)
        axes.plot([-9, 0, 0, 9], [0, 0, 1, 1], color=_INK, lw=1, ls=(0, (1, 2)))
        axes.step(places, values, where="mid", color=_COLORS[number % len(_COLORS)], lw=1.8)
        axes.plot(inputs, low, "o", color=_SOFT, ms=4)
        moved, width = scale * of["place"], scale * of["width"]
        told = f"moved {moved:+.2f} px, width {width:.1f} px, over {100 * of['overshoot']:.0f} %"
        axes.set_title(name, loc="left", pad=18, weight="bold")
        axes.text(0, 1.03, told.replace("-", "−"), transform=axes.transAxes, color=_SOFT, size=8)
        axes.set(xlim=(-3.2, 3.2), ylim=(-0.2, 1.25))
        axes.set_xlabel("input pixels from the edge", size=9)
    return figure


# --- pictures ---------------------------------------------------------------------------------------------------------


def boundary_figures(found: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """What cutting at one half makes of a picture: Boundary IoU (1 px), and wrong pixels per pixel of true boundary."""
    labels = [np.asarray(p >= 0.5, np.int32) for p in (found, truth)]
    iou = float(metrics.boundary_iou(labels[0], labels[1], 2, width=1, unit="pixels", frame=False)[1])
    inner = labels[1].astype(bool)
    padded = np.pad(inner, 1, mode="edge")
    sides = sum(np.sum(inner & ~padded[1 + i : padded.shape[0] - 1 + i, 1 + j : padded.shape[1] - 1 + j])
                for i, j in ((0, 1), (1, 0), (0, -1), (-1, 0)))  # fmt: skip
    return {"boundary_iou": iou, "wrong": float(np.sum(labels[0] != labels[1]) / max(sides, 1))}


def _boundaries(calls: Mapping[str, _Call], scale: int, columns: int, truth: np.ndarray, guide: np.ndarray) -> Any:
    figure, grid = _sheet(len(calls), columns, (2.7, 3.05), pictures=True)
    flat = truth[..., 0]
    height, width = flat.shape
    for axes, (name, call) in zip(grid, calls.items(), strict=True):
        y = _upsampled(call, truth[..., :1], guide, scale, name)[..., 0]
        of = boundary_figures(y, flat)
        axes.imshow(flat, cmap="gray_r", vmin=0, vmax=4, interpolation="nearest", extent=(0, width, height, 0))
        axes.imshow(
            np.where((y >= 0.5)[..., None], (0.84, 0.37, 0.0, 0.30), (0, 0, 0, 0)), extent=(0, width, height, 0)
        )
        axes.contour(np.arange(width) + 0.5, np.arange(height) + 0.5, flat, [0.5], colors=_TRUTH, linewidths=1.1)
        _outline(axes, y >= 0.5)
        axes.set_title(name, loc="left", weight="bold", pad=18, size=10)
        told = f"Boundary IoU {of['boundary_iou']:.2f} · wrong {of['wrong']:.2f} px"
        axes.text(0, 1.02, told, transform=axes.transAxes, color=_SOFT, size=8.5)
    figure.supxlabel(
        f"blue: the true boundary; orange: what is left of it after ×{scale}, cut at one half", size=9, color=_SOFT
    )
    return figure


def _outline(axes: Any, mask: np.ndarray) -> None:
    """The border of a mask, along the sides of its pixels."""
    from matplotlib.collections import LineCollection

    padded = np.pad(mask, 1)
    lines = [[(j, i), (j, i + 1)] for i, j in np.argwhere(padded[1:-1, 1:] != padded[1:-1, :-1])]
    lines += [[(j, i), (j + 1, i)] for i, j in np.argwhere(padded[1:, 1:-1] != padded[:-1, 1:-1])]
    axes.add_collection(LineCollection(lines, colors=_FOUND, linewidths=1.2, capstyle="projecting"))


def _pictures(calls: Mapping[str, _Call], scale: int, columns: int, truth: np.ndarray, guide: np.ndarray) -> Any:
    made = {f"{scale} × {scale} smaller": smaller(truth, scale), "the picture": truth}
    made |= {name: _upsampled(call, truth, guide, scale, name) for name, call in calls.items()}
    figure, grid = _sheet(len(made), columns, (2.7, 3.0), pictures=True)
    for axes, (name, y) in zip(grid, made.items(), strict=True):
        gray = y.shape[-1] == 1
        axes.imshow(np.clip(y[..., 0] if gray else y[..., :3], 0, 1), cmap="gray" if gray else None, vmin=0, vmax=1,
                    interpolation="nearest")  # fmt: skip
        axes.set_title(name, loc="left", weight="bold", pad=18, size=10)
        if y.shape == truth.shape and y is not truth:
            told = f"PSNR {-10 * np.log10(max(np.mean((y - truth) ** 2), 1e-12)):.1f} dB"
            axes.text(0, 1.02, told, transform=axes.transAxes, color=_SOFT, size=8.5)
    return figure


# --- sheets -----------------------------------------------------------------------------------------------------------


def _look(number: int) -> dict[str, Any]:
    return {
        "color": _COLORS[number % len(_COLORS)],
        "ls": _DASHES[number // len(_COLORS) % len(_DASHES)],
        "lw": 1.8,
    }


def _sheet(
    count: int, columns: int, size: tuple[float, float], *, pictures: bool = False, share: bool = False
) -> tuple[Any, Sequence[Any]]:
    """A figure with `count` axes in rows of `columns`, of this size in inches each."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = _figure_class()(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.16 if pictures else 0.06, w_pad=0.06)
    made = figure.subplots(rows, columns, squeeze=False, sharex=share, sharey=share).ravel()
    for axes in made[count:]:
        axes.remove()
    for axes in made[max(count - columns, 0) : count] if share else ():
        axes.tick_params(labelbottom=True)  # the last of its column, also where the row below has fewer
    for axes in made[:count] if pictures else ():
        axes.set(xticks=[], yticks=[])
        axes.grid(False)
        axes.spines[:].set_visible(False)
    return figure, made[:count]


def _matplotlib() -> Any:
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise ImportError(
            "show: needs matplotlib; install it, or this package with its extra: upsampling[figures]."
        ) from error
    return mpl


@functools.cache
def _figure_class() -> type:
    from matplotlib.figure import Figure

    class Shown(Figure):
        """A figure that a notebook shows by itself, whether pyplot is imported or not."""

        def _repr_png_(self) -> bytes:
            written = io.BytesIO()
            self.savefig(written, format="png", dpi=110)
            return written.getvalue()

    return Shown
