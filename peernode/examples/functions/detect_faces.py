"""Find the faces in a picture, wherever the picture is, on whatever hardware the worker has.

Input `{"picture": {"blob": ID}, "min_score": 0.5}`, result `{"faces": [{"box": [x, y, width,
height], "score": 0.98}, ...], "picture": {"width": 640, "height": 480}}`; boxes are in pixels of
the picture, best face first.  The model is the blob whose id stands under `face` in the key-value
namespace `models`: a developer puts a better model there and every later job uses it.

The model is CenterFace (Xu et al., "CenterFace: Joint Face Detection and Alignment Using Face as
Point", 2019): an image in, four maps of a quarter of its size out.  `heatmap` says how much a cell
is the centre of a face, `scale` the logarithm of the face's size and `offset` where in the cell
the centre lies; the fourth, facial landmarks, is not used here.
"""

import io

import edge
import numpy as np
from PIL import Image, ImageOps

SIDE_MAX = 640
"""The longer side a picture is reduced to, in pixels. Source: guess; 0.1 s on one core."""

SIDE_MULTIPLE = 32
"""Sides must divide by this. Source: the model halves the picture five times."""

STRIDE = 4
"""Pixels of the picture to one cell of a map. Source: the model."""

OVERLAP_MAX = 0.3
"""Boxes that overlap more are one face. Source: the model's authors."""

FACES_MAX = 1000
"""Most candidates looked at. Source: guess."""


def handler(input):
    """Return the faces in `input["picture"]`."""
    picture = load(input["picture"].bytes())
    pixels, scale_x, scale_y = prepare(picture)
    edge.progress(0.1, "looking")
    model = edge.blob(edge.kv("models")["face"])
    maps = edge.infer(model, {"input.1": pixels})
    boxes, scores = decode(maps["537"], maps["538"], maps["539"], input.get("min_score", 0.5))
    keep = suppress(boxes, scores)
    boxes = clip(boxes[keep] / (scale_x, scale_y, scale_x, scale_y), *picture.size)
    return {
        "faces": [
            {"box": [round(float(side), 1) for side in box], "score": round(float(score), 4)}
            for box, score in zip(boxes, scores[keep], strict=True)
        ],
        "picture": {"width": picture.width, "height": picture.height},
    }


def load(content):
    """Return the picture in `content` (bytes of any common format), upright, in RGB."""
    return ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB")


def prepare(picture):
    """Return the model's input, `(1, 3, H, W)` of float32, and the two factors of its size."""
    reduce = min(1.0, SIDE_MAX / max(picture.size))
    width, height = (
        SIDE_MULTIPLE * max(1, round(side * reduce / SIDE_MULTIPLE)) for side in picture.size
    )
    pixels = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR), np.float32)
    return pixels.transpose(2, 0, 1)[np.newaxis], width / picture.width, height / picture.height


def decode(heatmap, scale, offset, min_score):
    """Return the boxes `(N, 4)` of x, y, width and height, best first, and their scores `(N,)`.

    `heatmap` is `(1, 1, h, w)`; `scale` and `offset` are `(1, 2, h, w)`, the vertical one first.
    """
    rows, columns = np.nonzero(heatmap[0, 0] >= min_score)
    scores = heatmap[0, 0, rows, columns]
    best = np.argsort(-scores, kind="stable")[:FACES_MAX]
    rows, columns, scores = rows[best], columns[best], scores[best]
    heights, widths = np.exp(scale[0][:, rows, columns]) * STRIDE
    y_offsets, x_offsets = offset[0][:, rows, columns]
    x = (columns + x_offsets + 0.5) * STRIDE - widths / 2
    y = (rows + y_offsets + 0.5) * STRIDE - heights / 2
    return np.stack([x, y, widths, heights], axis=1), scores


def suppress(boxes, scores):
    """Return the indices of the boxes to keep: the best of those that overlap, best first."""
    left, top, widths, heights = boxes.T
    right, bottom, areas = left + widths, top + heights, widths * heights
    keep = []
    waiting = np.argsort(-scores, kind="stable")
    while waiting.size:
        best, waiting = waiting[0], waiting[1:]
        keep.append(int(best))
        shared_width = np.minimum(right[best], right[waiting]) - np.maximum(
            left[best], left[waiting]
        )
        shared_height = np.minimum(bottom[best], bottom[waiting]) - np.maximum(
            top[best], top[waiting]
        )
        shared = np.maximum(shared_width, 0) * np.maximum(shared_height, 0)
        waiting = waiting[shared / (areas[best] + areas[waiting] - shared) <= OVERLAP_MAX]
    return keep


def clip(boxes, width, height):
    """Return `boxes` cut to a picture of `width` by `height` pixels."""
    sides = (width, height)
    starts = np.clip(boxes[:, :2], 0, sides)
    ends = np.clip(boxes[:, :2] + boxes[:, 2:], 0, sides)
    return np.concatenate([starts, ends - starts], axis=1)
