"""Read whole images of surveys with their noise, masks and calibration."""
