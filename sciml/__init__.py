"""Solve PDEs and reacting-flow chemistry with multi-scale networks, beside honest references."""
