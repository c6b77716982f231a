"""tok4d_image: still images of any size as one plane of 4D tokens."""
