"""Shared, tested pieces that strategies are made of."""
