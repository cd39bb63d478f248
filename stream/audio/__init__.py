"""Audio devices, files and pipes as sources and sinks of a call."""
