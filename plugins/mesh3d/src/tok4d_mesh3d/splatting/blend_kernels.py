"""Blending sorted splats into pixels and back: compiled kernels, one call a band of rows.

M = visible splats, front to back, P = (splat, band) pairs, H = height, W = width.
A row of `splats` `[M, 10]` is one splat, its columns are named below; `boxes` `[M, 4]` int32 are the pixels it reaches:
first and last column, first and last row. All arrays are of one precision.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tok4d_mesh3d.splatting.compiled import compiled
from tok4d_mesh3d.splatting.rules import MAX_ALPHA, MIN_TRANSMITTANCE

BAND = 8  # rows: a band's buffers stay in the cache, and splats are listed twice at most where they are small
COLUMNS = 10  # x, y, inverse covariance xx, xy, yy, opacity, largest exponent, red, green, blue
GRADIENTS = 9  # of x, y, xx, xy, yy, opacity, red, green, blue


@compiled
def list_bands(boxes: Any, height: int) -> Any:
    """Which splats touch which band, front to back: band b's are `members[offsets[b] : offsets[b + 1]]`."""
    bands = (height + BAND - 1) // BAND
    offsets = np.zeros(bands + 1, np.int64)
    for s in range(len(boxes)):
        for b in range(boxes[s, 2] // BAND, boxes[s, 3] // BAND + 1):
            offsets[b + 1] += 1
    for b in range(bands):
        offsets[b + 1] += offsets[b]
    members = np.empty(offsets[bands], np.int32)
    ends = offsets[:-1].copy()
    for s in range(len(boxes)):
        for b in range(boxes[s, 2] // BAND, boxes[s, 3] // BAND + 1):
            members[ends[b]] = s
            ends[b] += 1
    return offsets, members


@compiled
def blend_band(band: int, offsets: Any, members: Any, splats: Any, boxes: Any, image: Any, alpha: Any) -> None:
    """Write a band's rows of `image` `[3, H, W]` (on black) and `alpha` `[1, H, W]`."""
    real = splats.dtype.type
    half, one, most, least = real(0.5), real(1), real(MAX_ALPHA), real(MIN_TRANSMITTANCE)
    height, width = alpha.shape[1], alpha.shape[2]
    top, bottom = band * BAND, min(height, band * BAND + BAND)
    # Red, green, blue and what is left of the light behind; that is negative once the pixel is finished.
    light = np.zeros((BAND, width, 4), splats.dtype)
    light[:, :, 3] = one
    for k in range(offsets[band], offsets[band + 1]):
        s = members[k]
        cx, cy = splats[s, 0] - half, splats[s, 1] - half
        xx, xy, yy = splats[s, 2], splats[s, 3], splats[s, 4]
        opacity, limit = splats[s, 5], splats[s, 6]
        red, green, blue = splats[s, 7], splats[s, 8], splats[s, 9]
        for y in range(max(top, boxes[s, 2]), min(bottom, boxes[s, 3] + 1)):
            dy = real(y) - cy
            row = light[y - top]
            for x in range(boxes[s, 0], boxes[s, 1] + 1):
                left = row[x, 3]
                dx = real(x) - cx
                exponent = half * (xx * dx * dx + yy * dy * dy) + xy * dx * dy
                if left < 0 or exponent < 0 or exponent > limit:
                    continue
                a = min(most, opacity * math.exp(-exponent))
                behind = left * (one - a)
                if behind <= least:
                    row[x, 3] = -left
                    continue
                weight = a * left
                row[x, 0] += weight * red
                row[x, 1] += weight * green
                row[x, 2] += weight * blue
                row[x, 3] = behind
    for y in range(top, bottom):
        for x in range(width):
            for c in range(3):
                image[c, y, x] = light[y - top, x, c]
            alpha[0, y, x] = one - abs(light[y - top, x, 3])


@compiled
def backward_band(
    band: int,
    offsets: Any,
    members: Any,
    splats: Any,
    boxes: Any,
    image: Any,
    alpha: Any,
    grad_image: Any,
    grad_alpha: Any,
    pairs: Any,
) -> None:
    """Write the gradients of a band's members into `pairs`, a row of 9 for each in turn.

    Front to back as the blending: what a splat hides is the loss's gradient along everything behind it, and that is
    the gradient along the whole pixel less what has been passed.
    """
    real = splats.dtype.type
    half, one, most, least, zero = real(0.5), real(1), real(MAX_ALPHA), real(MIN_TRANSMITTANCE), real(0)
    height, width = alpha.shape[1], alpha.shape[2]
    top, bottom = band * BAND, min(height, band * BAND + BAND)
    light = np.empty((BAND, width, 5), splats.dtype)  # gradient of red, green, blue; light left; gradient behind
    for y in range(top, bottom):
        for x in range(width):
            behind = -(one - alpha[0, y, x]) * grad_alpha[0, y, x]
            for c in range(3):
                light[y - top, x, c] = grad_image[c, y, x]
                behind += image[c, y, x] * grad_image[c, y, x]
            light[y - top, x, 3] = one
            light[y - top, x, 4] = behind
    for k in range(offsets[band], offsets[band + 1]):
        s = members[k]
        cx, cy = splats[s, 0] - half, splats[s, 1] - half
        xx, xy, yy = splats[s, 2], splats[s, 3], splats[s, 4]
        opacity, limit = splats[s, 5], splats[s, 6]
        red, green, blue = splats[s, 7], splats[s, 8], splats[s, 9]
        g_x, g_y, g_xx, g_xy, g_yy, g_opacity = zero, zero, zero, zero, zero, zero
        g_red, g_green, g_blue = zero, zero, zero
        for y in range(max(top, boxes[s, 2]), min(bottom, boxes[s, 3] + 1)):
            dy = real(y) - cy
            row = light[y - top]
            for x in range(boxes[s, 0], boxes[s, 1] + 1):
                left = row[x, 3]
                dx = real(x) - cx
                exponent = half * (xx * dx * dx + yy * dy * dy) + xy * dx * dy
                if left < 0 or exponent < 0 or exponent > limit:
                    continue
                falloff = math.exp(-exponent)
                full = opacity * falloff
                a = min(most, full)
                if left * (one - a) <= least:
                    row[x, 3] = -left
                    continue
                weight = a * left
                along = red * row[x, 0] + green * row[x, 1] + blue * row[x, 2]
                behind = row[x, 4] - weight * along
                g_red += weight * row[x, 0]
                g_green += weight * row[x, 1]
                g_blue += weight * row[x, 2]
                row[x, 3] = left * (one - a)
                row[x, 4] = behind
                if full > most:
                    continue
                g_a = left * along - behind / (one - a)
                g_opacity += g_a * falloff
                g_exponent = -g_a * a
                g_xx += g_exponent * half * dx * dx
                g_xy += g_exponent * dx * dy
                g_yy += g_exponent * half * dy * dy
                g_x -= g_exponent * (xx * dx + xy * dy)
                g_y -= g_exponent * (xy * dx + yy * dy)
        out = pairs[k - offsets[band]]
        out[0], out[1], out[2], out[3], out[4], out[5] = g_x, g_y, g_xx, g_xy, g_yy, g_opacity
        out[6], out[7], out[8] = g_red, g_green, g_blue


@compiled
def sum_pairs(members: Any, pairs: Any, gradients: Any) -> None:
    """Add pairs `[P, 9]` to the `gradients` `[M, 9]` of their splats, in order: sums do not depend on threads."""
    for k in range(len(members)):
        for c in range(GRADIENTS):
            gradients[members[k], c] += pairs[k, c]
