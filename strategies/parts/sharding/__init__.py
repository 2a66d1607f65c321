"""Models trained slice by slice that can go back: stages, orders, and what several models predict together."""
