"""What znb shows in notebooks: thin Python, whose front end is TypeScript in ``js/``, built into ``static/``.

=============== ==========================================================================================
``bundles``      the built front end
``explorer``     the trace explorer
=============== ==========================================================================================
"""

from __future__ import annotations
