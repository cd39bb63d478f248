"""A laboratory on one machine: virtual sound cards and two hosts, for tests and benchmarks.

Nothing in the live link needs this package; it needs PulseAudio, iproute2 and (for hosts) root.
"""
