"""Scores of predictions: metrics, bootstrap intervals, thresholds, calibration, strata."""
