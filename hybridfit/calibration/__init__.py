"""Calibration: are posteriors true, and how sharp are they?"""
