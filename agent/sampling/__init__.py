"""Repeated sampling that stops when it stops paying. Pure: votes, costs and budgets in, decisions out."""
