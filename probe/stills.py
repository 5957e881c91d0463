"""Figures as still pictures: plotly drawn by kaleido in one Chromium that is started once and asks no network."""

from __future__ import annotations

import asyncio
import atexit
import base64
import json
import shutil
import threading
from collections.abc import Callable, Coroutine
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from probe.errors import ProbeError
from probe.small_png import small_png

if TYPE_CHECKING:
    import plotly.graph_objects as go

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
HEIGHT = 450
"""Plotly's own height in pixels of a figure that names none."""
START_SECONDS, DRAW_SECONDS, CLOSE_SECONDS = 60.0, 90.0, 10.0
# kaleido's page with leave to read scripts from disk and nothing else: a figure can name pictures, maps and fonts.
_POLICY = (
    "default-src 'none'; script-src file: 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:"
)
# Chromium's own background requests go to a proxy that is not there (port 9, discard).
_NOWHERE = "127.0.0.1:9"


class StillError(ProbeError):
    """A picture that cannot be drawn here: no kaleido, no Chromium, or a figure that plotly refuses."""


def still(figure: go.Figure, *, width: int = 900, scale: float = 2) -> bytes:
    """A figure as PNG. `width` in CSS pixels, the figure's own height; `scale` picture pixels a CSS pixel.

    The first call starts Chromium (seconds), later ones draw in it (a fraction of one); it ends with the process.
    Raises StillError without kaleido or Chromium, naming the command that installs it.
    """
    return small_png(_draw(figure, "png", width, scale))


def drawing(figure: go.Figure, *, width: int = 900) -> bytes:
    """A figure as SVG, text kept as text. Raises StillError as `still` does."""
    return _draw(figure, "svg", width, 1)


def show(figure: go.Figure, *, width: int = 900, scale: float = 2) -> None:
    """Display a figure in a notebook twice in one output: alive where plotly is rendered, else as a PNG.

    The PNG is what a code host shows of a committed notebook. Without kaleido or Chromium there is only the
    interactive figure, and one line below it that says why. Raises StillError without IPython.
    """
    if find_spec("IPython") is None:
        raise StillError("show displays in a notebook and IPython is not installed: pip install ipykernel")
    from IPython.display import display

    shown: Callable[..., object] = display  # it ships without types
    document = json.loads(figure.to_json())
    bundle: dict[str, Any] = {
        "application/vnd.plotly.v1+json": {**document, "config": {"displaylogo": False, "responsive": True}},
        "text/plain": "a figure",
    }
    missing = None
    try:
        picture = still(figure, width=width, scale=scale)
        bundle["image/png"] = base64.b64encode(picture).decode()
    except StillError as error:
        missing = str(error)
    size = {"image/png": {"width": width, "height": _height(figure)}}
    shown(bundle, raw=True, metadata=size if missing is None else {})
    if missing is not None:
        print(f"no picture beside the interactive figure: {missing}")


def browser() -> str:
    """Path of the Chromium that draws: the first of `BROWSERS` on PATH. Raises StillError where there is none."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise StillError("no Chromium on PATH to draw pictures with: apt-get install chromium")
    return found


def _height(figure: go.Figure) -> int:
    return int(figure.layout.height or HEIGHT)


def _draw(figure: go.Figure, form: Literal["png", "svg"], width: int, scale: float) -> bytes:
    if find_spec("kaleido") is None:
        raise StillError("pictures need kaleido, which is not installed: pip install 'headprobe[figures]'")
    path = browser()
    if width < 1 or scale <= 0:
        raise StillError(f"a picture {width} pixels wide at scale {scale} is empty: give positive numbers")
    options = {"format": form, "width": width, "height": _height(figure), "scale": scale}
    return _PAINTER.draw(figure.to_dict(), options, path)


class _Painter:
    """One Chromium on an event loop in a thread of its own, so that it also serves a notebook, whose loop is taken."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._kaleido: Any = None

    def draw(self, figure: dict[str, Any], options: dict[str, Any], path: str) -> bytes:
        """The picture; Chromium is started if it does not run, and let go when it fails."""
        from kaleido.errors import KaleidoError

        with self._lock:
            if self._kaleido is None:
                self._start(path)
            try:
                return bytes(self._wait(self._kaleido.calc_fig(figure, options), DRAW_SECONDS))
            except KaleidoError as error:
                raise StillError(f"this figure cannot be drawn ({_reason(error)})") from error
            except (RuntimeError, OSError, TimeoutError) as error:
                self._stop()
                raise StillError(f"{path} ended while it drew a figure ({_reason(error)}); draw it again") from error

    def close(self) -> None:
        """End Chromium; the next picture starts it again."""
        with self._lock:
            self._stop()

    def _start(self, path: str) -> None:
        from kaleido import Kaleido, PageGenerator

        page = PageGenerator(mathjax=False)
        page.header = page.header.replace(
            "<head>", f'<head><meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="stills", daemon=True)
        self._thread.start()
        try:
            # No sandbox: it cannot be had as root in a container, and the page holds our figure only.
            self._kaleido = Kaleido(page_generator=page, path=path, proxy_server=_NOWHERE, enable_sandbox=False)
            self._wait(self._kaleido.open(), START_SECONDS)
        except (RuntimeError, OSError, TimeoutError) as error:
            self._stop()
            raise StillError(f"{path} did not start; see what `{path} --headless about:blank` says") from error
        # Only now: at exit the last one registered goes first, and kaleido's temporary folders must outlive Chromium.
        atexit.unregister(self.close)
        atexit.register(self.close)

    def _wait(self, work: Coroutine[Any, Any, Any], seconds: float) -> Any:
        if self._loop is None:
            raise RuntimeError("the loop was closed")
        return asyncio.run_coroutine_threadsafe(asyncio.wait_for(work, seconds), self._loop).result()

    def _stop(self) -> None:
        loop, thread, kaleido = self._loop, self._thread, self._kaleido
        self._loop = self._thread = self._kaleido = None
        if loop is None or thread is None:
            return
        try:
            asyncio.run_coroutine_threadsafe(_ended(kaleido), loop).result(CLOSE_SECONDS)
        except (RuntimeError, OSError, TimeoutError):
            pass  # it has ended already, which is what was wanted
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()


async def _ended(kaleido: Any) -> None:
    """Close Chromium and let every task of its loop come to its end."""
    try:
        if kaleido is not None:
            await kaleido.close()
    finally:
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


_PAINTER = _Painter()
