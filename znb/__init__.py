"""A Jupyter-native distributed computing environment over ZeroMQ."""
