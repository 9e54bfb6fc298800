"""What znb shows in notebooks: thin Python, whose front end is TypeScript in ``js/``, built into ``static/``.

=============== ==========================================================================================
``bundles``      the built front end
``comms``        messages of pages while a cell runs
``explorer``     the trace explorer
``columns``      traces as binary columns; pure
``display``      what makes traces show themselves as explorers
``stream``       what is published, as it comes
``kinds``        values as lines, tables, logs and pictures; pure
``panel``        what the workers of a cluster do, and buttons
=============== ==========================================================================================
"""

from __future__ import annotations
