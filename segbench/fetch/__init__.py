"""Files from elsewhere: download them, unpack archives of strangers."""
