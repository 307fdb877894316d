"""Placeholder until the generated client is built."""
