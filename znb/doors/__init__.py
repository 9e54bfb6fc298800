"""Where other libraries come in: each module here fits a cluster to one of them, and is loaded only when it is in use.

``dask`` and ``asyncio`` need nothing: they take any ``concurrent.futures.Executor``.
"""
