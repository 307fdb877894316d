"""The version, in one place: the wheel's metadata and the User-Agent are read from here."""

__version__ = "0.1.0"
