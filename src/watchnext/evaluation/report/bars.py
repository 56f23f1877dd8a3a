"""Draw shares as inline SVG: bars that stretch with the page, so that their labels stay text of the page."""

from collections.abc import Mapping
from html import escape

from watchnext.metrics import shown

HEIGHT = 10


def bar(share: float | None, colour: str, title: str) -> str:
    """Draw one share in [0, 1] on a pale ground; an undefined one is empty."""
    return stacked({title: share or 0.0}, {title: colour})


def stacked(shares: Mapping[str, float | None], colours: Mapping[str, str]) -> str:
    """Draw shares that add up to at most 1 beside each other; each names itself and its share under the pointer."""
    drawn, at = [], 0.0
    for name, share in shares.items():
        width = 100 * (share or 0.0)
        if width > 0:
            title = escape(f"{name}: {shown(share, '.1%')}")
            drawn.append(
                f'<rect x="{at:.2f}" width="{width:.2f}" height="{HEIGHT}" fill="{colours[name]}"><title>{title}</title></rect>'
            )
        at += width
    return f'<svg class="bar" viewBox="0 0 100 {HEIGHT}" preserveAspectRatio="none" role="img">{"".join(drawn)}</svg>'
