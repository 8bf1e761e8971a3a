"""The endpoints, version 1."""
