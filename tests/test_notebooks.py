"""``notebooks/``: what holds for every one of them; what each shows has tests of its own."""

from __future__ import annotations

import pytest

from executed import NOTEBOOKS, is_clean


@pytest.mark.parametrize("name", sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")))
def test_it_is_committed_clean(name):
    assert is_clean(name)
