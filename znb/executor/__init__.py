"""Jobs over PUSH/PULL: both ends of ``map`` and ``submit`` (the table of messages is in ``frames``)."""
