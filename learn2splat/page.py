"""Pages: self-contained HTML files from templates, with curves as inline SVG; readable offline."""

from __future__ import annotations

import base64
import io
import re
import shlex
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from learn2splat.files import write_text

ACCENT = "#2b7bba"
"""Colour of curves."""


def write_page(path: Path, template: str, **values: Any) -> None:
    """Write a page, whole or not at all.

    Args:
        path: where to.
        template: file below the package that extends ``page.html.j2``, for example ``eval/report.html.j2``.
        values: what the template shows; text is escaped. The filter ``shell`` quotes a command's arguments.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["shell"] = shlex.join
    write_text(path, environment.get_template(template).render(**values))


def svg(figure: Figure) -> Markup:
    """A figure as an element of a page, small: text as text, coordinates to a hundredth of a pixel, no metadata."""
    stream = io.StringIO()
    with rc_context({"svg.fonttype": "none"}):
        figure.savefig(stream, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = re.sub(r"(\.\d\d)\d+", r"\1", stream.getvalue())
    return Markup(re.sub(r"\s*\n\s*", "\n", text[text.index("<svg") :]))


def jpeg(picture: Tensor) -> bytes:
    """A JPEG file of a picture [H, W, 3] in 0..1."""
    pixels = (picture.clamp(0, 1) * 255).round().byte().cpu().numpy()
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, format="JPEG", quality=92)
    return stream.getvalue()


def data_url(content: bytes, kind: str = "image/jpeg") -> str:
    """A file as the source of an image or a film in a page; ``kind`` is its media type."""
    return f"data:{kind};base64," + base64.b64encode(content).decode("ascii")
