"""The app's page, built with gradio."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from unirain_plugin.app.restoration import Restorer, preview
from unirain_plugin.data.folders import IMAGE_SUFFIXES
from unirain_plugin.errors import UniRainError
from unirain_plugin.inference.restoring import LARGE_RAIN, PRECISIONS, RestoreOptions
from unirain_plugin.support.packages import require
from unirain_plugin.toolbox import replaced

if TYPE_CHECKING:
    import gradio

TITLE = "UniRain"
SAMPLES = [Path(__file__).parents[1] / "assets" / name for name in ("rainy_rocket.jpg", "drops_home.jpg")]
TILES = (256, 384, 512, 768, 1024, 2048)
_FONTS = (["system-ui", "sans-serif"], ["ui-monospace", "monospace"])
_ABOUT = """# UniRain
Drop a rainy image, press *Restore*, and drag the slider. The image goes to the machine that serves this page and
nowhere else; what you download has the size, depth, transparency, orientation and metadata of yours."""


def theme() -> "gradio.Theme":
    """A theme with the system's own fonts, so that none is fetched."""
    gr = require("gradio", "gradio", "app")
    return gr.themes.Default(font=_FONTS[0], font_mono=_FONTS[1])


def fetches_nothing() -> AbstractContextManager[None]:
    """Refuse the URL that a client may name instead of a file, while the app runs: gradio would download it."""
    from gradio import processing_utils

    async def refuse(url: str) -> None:
        raise _error(f"{url}: this app restores uploaded files and fetches none.")

    return replaced((processing_utils, "async_ssrf_protected_get", refuse))


def devices() -> list[str]:
    """The devices of this machine that may be chosen."""
    names = ["auto", "cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    return [*names, "mps"] if torch.backends.mps.is_available() else names


def build(restorer: Restorer, defaults: RestoreOptions, device: str) -> "gradio.Blocks":
    """The page with its events; ``defaults`` and ``device`` are chosen at first."""
    gr = require("gradio", "gradio", "app")
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
        gr.Markdown(_ABOUT)
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                file = gr.File(label="Rainy image", file_types=list(IMAGE_SUFFIXES), height=150, elem_id="image")
                button = gr.Button("Restore", variant="primary", elem_id="restore")
                settings = _settings(restorer, defaults, device)
                samples = gr.Examples([[str(path)] for path in SAMPLES], file, label="Or one of these")
            with gr.Column(scale=3, min_width=320):
                slider = gr.ImageSlider(label="Before and after", format="png", interactive=False, max_height=760,
                                        buttons=["fullscreen"], elem_id="slider")  # fmt: skip
                summary = gr.Markdown(elem_id="summary")
                download = gr.DownloadButton("Download the result (PNG)", interactive=False, elem_id="download")
        shown = [slider, summary, download]
        file.upload(_show(restorer), file, shown, api_name="show")
        samples.load_input_event.then(_show(restorer), file, shown, api_visibility="private")
        button.click(_restore(restorer), [file, *settings], shown, api_name="restore", concurrency_limit=1)
    return blocks


def _settings(restorer: Restorer, defaults: RestoreOptions, device: str) -> list:
    """What is chosen on the page, in the order of the arguments of ``restore``."""
    import gradio as gr

    names = [path.name for path in restorer.weights]
    choices = [(p.name if names.count(p.name) == 1 else str(p), str(p)) for p in restorer.weights]
    weights = gr.Dropdown(choices, value=choices[0][1], label="Weights")
    tile = gr.Dropdown(
        [*sorted({*TILES, defaults.tile} - {0}), ("whole image", 0)],
        value=defaults.tile,
        label="Tile",
        info="Edge in pixels of what is computed at a time: smaller needs less memory.",
    )
    overlap = gr.Slider(
        0, 128, defaults.overlap, step=8, label="Overlap", info="Of tiles, in pixels; UniRain needs none."
    )
    precision = gr.Radio(list(PRECISIONS), value=defaults.precision, label="Precision")
    ensemble = gr.Checkbox(defaults.ensemble, label="Ensemble of 8 flips and turns (8 times the time)")
    large = gr.Checkbox(
        bool(defaults.sizes),
        label="Large drops and streaks",
        info=f"Restores larger images shrunk to {' and '.join(map(str, LARGE_RAIN))} pixels as well, and blends.",
    )
    where = gr.Dropdown(list(dict.fromkeys([*devices(), device])), value=device, label="Device")
    return [weights, tile, overlap, precision, ensemble, large, where]


def _error(text: str) -> Exception:
    """A message that stays until it is closed."""
    import gradio as gr

    return gr.Error(text, duration=None, print_exception=False)


def _show(restorer: Restorer) -> object:
    """Shows an uploaded image, on both sides of the slider, before it is restored."""
    import gradio as gr

    def show(file: str) -> tuple:
        try:
            pixels = restorer.open(Path(file)).pixels
        except UniRainError as error:
            raise _error(str(error)) from None
        small = preview(pixels)
        text = f"{pixels.shape[1]} × {pixels.shape[0]} pixels, {8 * pixels.itemsize} bits; press *Restore*"
        return (small, small), text, gr.update(value=None, interactive=False)

    return show


def _restore(restorer: Restorer) -> object:
    import gradio as gr

    def restore(
        file: str | None,
        weights: str,
        tile: int,
        overlap: float,
        precision: str,
        ensemble: bool,
        large: bool,
        device: str,
        progress: gr.Progress = gr.Progress(),  # noqa: B008  gradio finds it by this default
    ) -> tuple:
        if file is None:
            raise _error("There is no image yet: drop one first.")
        try:
            net = restorer.net(weights, device)
            edges = {"sizes": (net.restore_sizes or LARGE_RAIN) if large else (), "context": net.restore_context}
            options = RestoreOptions(int(tile), int(overlap), precision, bool(ensemble), **edges)
            done = restorer.restore(Path(file), weights, options, device, lambda text: progress(None, desc=text))
        except UniRainError as error:
            raise _error(str(error)) from None
        return (done.before, done.after), done.summary, gr.update(value=str(done.file), interactive=True)

    return restore
