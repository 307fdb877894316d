"""What the client costs, measured beside its peers: `make bench`."""
