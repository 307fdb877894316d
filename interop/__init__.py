"""Clients that other people wrote, each pointed at the mock server and used as in production.

    make interop

The table shows what the mock server counted and which sessions were left running. A client that works at the service
and not here is a fault of the mock server, and fails the run.
"""
