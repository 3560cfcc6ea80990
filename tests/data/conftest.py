"""The folder of the tests of data."""

from raw_folder import folder, machine  # noqa: F401
