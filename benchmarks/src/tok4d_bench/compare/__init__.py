"""Runs and published figures side by side, with every difference of protocol between them."""
