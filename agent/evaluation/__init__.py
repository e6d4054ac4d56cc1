"""Evaluation: what the physics predicts against what others have measured, and the fit of efficiencies behind it.

`table` reads measurements; `hardware`, `software`, `precision` and `architectures` say what a row ran on, with and of;
`rows` turns it into loads, `terms` into physics with unknown coefficients; `regression` and `fit` learn, `forecast`
and `targets` predict, `scores` and `validation` compare, `crossvalidation` doubts.
"""
