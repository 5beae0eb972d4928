"""Fitting: a Levenberg-Marquardt that knows no astronomy, starts, and the galaxy fit."""
