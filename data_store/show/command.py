"""`foldline store show`: print one chain of a store, and draw it where a file is named."""

from __future__ import annotations

from pathlib import Path

from ...errors import FoldlineError
from ..store import Store
from .view import ChainView


def show_chain(store: Path | str, chain_id: str, *, top: int, png: Path | None) -> int:
    """Print chain ``chain_id`` of ``store`` and write ``png`` if given; 0.

    Raises FoldlineError for a chain or store that is not there and for a file that cannot be written, before anything is computed.
    """
    from .terminal import print_chain

    if top < 0:
        raise FoldlineError(f"--top {top}: the number of pairs to list is 0 or more")
    if png is not None:
        _check_png(png)
    view = ChainView(Store.open(store).record(chain_id))
    print_chain(view, top)
    if png is not None:
        from .picture import draw_chain

        draw_chain(view, png)
        print(f"\npicture: {png}")
    return 0


def _check_png(path: Path) -> None:
    """Refuse what could not be written before anything is computed."""
    if path.suffix.lower() != ".png":
        raise FoldlineError(f"--png {path}: the picture is a PNG; name a file that ends in .png")
    if path.is_dir():
        raise FoldlineError(f"--png {path}: that is a folder; name a file in it")
    if not path.parent.is_dir():
        raise FoldlineError(f"--png {path}: the folder {path.parent} does not exist; make it first")
