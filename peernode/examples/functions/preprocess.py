"""Look at a picture where it was taken, and send only the findings to the cloud.

Input `{"picture": {"blob": ID}}`.  The picture is measured and then deleted; what leaves is a few
hundred bytes, posted to the address that stands under `endpoint` in the key-value namespace
`cloud`.  Its host must be listed in the project's `egress`.  Result: the findings.

`fingerprint` is a difference hash (64 bits, hexadecimal): pictures of the same scene differ in few
bits, so that the cloud can tell a new scene from a known one without having seen either.
"""

import io

import edge
import numpy as np
from PIL import Image, ImageOps

SIDE_MAX = 512
"""The longer side that is measured, in pixels. Source: guess."""


def handler(input):
    """Measure `input["picture"]`, post the findings, delete the picture."""
    picture = input["picture"]
    content = picture.bytes()
    findings = {
        "picture": picture.id,
        "cid": picture.cid,
        "size_bytes": len(content),
        **measure(ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB")),
    }
    edge.progress(0.5, "measured")
    answer = edge.http("POST", edge.kv("cloud")["endpoint"], json=findings)
    if answer.status >= 300:
        # The job fails, so nothing is deleted: it can be handed in again.
        raise RuntimeError(f"the cloud answered {answer.status}")
    edge.delete_blob(picture.id)
    return findings


def measure(picture):
    """Return what can be said of an RGB picture without showing it."""
    reduced = picture.copy()
    reduced.thumbnail((SIDE_MAX, SIDE_MAX))
    pixels = np.asarray(reduced, np.float32) / 255
    luma = pixels @ np.array([0.2126, 0.7152, 0.0722], np.float32)  # ITU-R BT.709, gamma kept
    red, green, blue = (round(float(channel), 4) for channel in pixels.mean(axis=(0, 1)))
    return {
        "width": picture.width,
        "height": picture.height,
        "brightness": round(float(luma.mean()), 4),
        "contrast": round(float(luma.std()), 4),
        "sharpness": round(sharpness(luma), 6),
        "colour": {"red": red, "green": green, "blue": blue},
        "fingerprint": fingerprint(picture),
    }


def sharpness(luma):
    """Return the variance of the Laplacian: low for a blurred picture. `luma` is `(H, W)`."""
    middle = luma[1:-1, 1:-1]
    around = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:]
    return float((around - 4 * middle).var()) if middle.size else 0.0


def fingerprint(picture):
    """Return the difference hash: in which of 8 by 8 cells it gets darker to the right."""
    grey = np.asarray(picture.convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
    return np.packbits(grey[:, :-1] > grey[:, 1:]).tobytes().hex()
