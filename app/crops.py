"""The crop that a model sees of a photograph."""

import numpy as np

from app import faces, photos
from app.faces import Box
from app.photos import Pixels
from model.bundle import Bundle


def cut(photo: Pixels, box: Box, bundle: Bundle) -> Pixels:
    """The crop in a box, made as the images were that the bundle's flow learned from: through JPEG,
    if they were. A photograph that is a crop already stays what it is."""
    crop = faces.align(photo, box, bundle.resolution)
    if bundle.crop_jpeg is None or np.array_equal(crop, photo):
        return crop
    return photos.through_jpeg(crop, bundle.crop_jpeg)
