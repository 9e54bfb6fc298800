"""The built front end of widgets: one JavaScript module and one style sheet each.

``make`` builds them from ``js/``; a wheel has them. Pure.
"""

from __future__ import annotations

from importlib import resources

from znb.errors import ZnbError

__all__ = ["BundleMissing", "read_bundle"]


class BundleMissing(ZnbError, RuntimeError):
    """A widget's front end has not been built: this is a source tree where ``make`` found no Node.js."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"the front end of the widget {name!r} is not in this installation of znb; in a source tree, install "
            "Node.js 20 or newer with npm and run: make .stamps/bundles",
        )


def read_bundle(file: str) -> str:
    """Return the text of a built file, such as ``"explorer.js"``.

    Raises:
        BundleMissing: It has not been built.
    """
    try:
        return resources.files("znb.widgets").joinpath("static", file).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BundleMissing(file.partition(".")[0]) from None
