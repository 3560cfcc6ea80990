"""Pairs of image and label: found, checked and converted once, then read fast. Knows no models.

Letters: N images, H W image size, C classes.
"""
