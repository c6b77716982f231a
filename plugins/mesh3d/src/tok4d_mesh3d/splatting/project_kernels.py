"""Gaussians to splats of one view and back: compiled kernels, one call a range of Gaussians.

N = Gaussians, M = visible splats, front to back. A row of `gaussians` `[N, 14]` is a mean, a quaternion, scales, an
opacity and a colour; a row of `splats` is as in blend_kernels.py.

Local affine approximation of the projection (EWA splatting, Zwicker et al. 2001; Kerbl et al. 2023, equation 5),
antialiased by a filter in the image that keeps a splat's total light (Mip-Splatting, Yu et al. 2024). With T = (right,
lower) the Jacobian times the camera's rotation and L the Gaussian's rotation times its scales, the rows of T L are
vectors m and n whose products are the covariance in the image, xx = m.m, xy = m.n, yy = n.n; its determinant is
|m x n|^2, which keeps the digits that xx yy - xy^2 loses for flat Gaussians. `camera` `[17]` is world_to_camera's upper
three rows, then fx, fy, cx, cy and the filter's variance.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tok4d_mesh3d.splatting.compiled import compiled
from tok4d_mesh3d.splatting.rules import MARGIN, MIN_ALPHA, NEAR


@compiled
def _vector(row: Any, first: int) -> Any:
    return row[first], row[first + 1], row[first + 2]


@compiled
def _dot(a: Any, b: Any) -> Any:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@compiled
def _cross(a: Any, b: Any) -> Any:
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


@compiled
def _sum(x: Any, a: Any, y: Any, b: Any) -> Any:
    """x a + y b."""
    return x * a[0] + y * b[0], x * a[1] + y * b[1], x * a[2] + y * b[2]


@compiled
def _each(a: Any, b: Any) -> Any:
    return a[0] * b[0], a[1] * b[1], a[2] * b[2]


@compiled
def _times(rows: Any, a: Any) -> Any:
    """Matrix times vector."""
    return _dot(rows[0], a), _dot(rows[1], a), _dot(rows[2], a)


@compiled
def _back(rows: Any, a: Any) -> Any:
    """Transposed matrix times vector."""
    return (
        rows[0][0] * a[0] + rows[1][0] * a[1] + rows[2][0] * a[2],
        rows[0][1] * a[0] + rows[1][1] * a[1] + rows[2][1] * a[2],
        rows[0][2] * a[0] + rows[1][2] * a[1] + rows[2][2] * a[2],
    )


@compiled
def _unit_quaternion(row: Any) -> Any:
    """Quaternion of length 1, and one over its length before."""
    w, x, y, z = row[3], row[4], row[5], row[6]
    inverse = row.dtype.type(1) / math.sqrt(w * w + x * x + y * y + z * z)
    return (w * inverse, x * inverse, y * inverse, z * inverse), inverse


@compiled
def _rotation(q: Any, one: Any) -> Any:
    w, x, y, z = q
    two = one + one
    return (
        (one - two * (y * y + z * z), two * (x * y - w * z), two * (x * z + w * y)),
        (two * (x * y + w * z), one - two * (x * x + z * z), two * (y * z - w * x)),
        (two * (x * z - w * y), two * (y * z + w * x), one - two * (x * x + y * y)),
    )


@compiled
def _rotation_backward(q: Any, g: Any, one: Any) -> Any:
    """Gradient of a unit quaternion from the gradient of its rotation's rows."""
    w, x, y, z = q
    two = one + one
    x_axis, y_axis, z_axis = g[2][1] - g[1][2], g[0][2] - g[2][0], g[1][0] - g[0][1]
    xy, xz, yz = g[0][1] + g[1][0], g[0][2] + g[2][0], g[1][2] + g[2][1]
    return (
        two * (x * x_axis + y * y_axis + z * z_axis),
        two * (w * x_axis + y * xy + z * xz - two * x * (g[1][1] + g[2][2])),
        two * (w * y_axis + x * xy + z * yz - two * y * (g[0][0] + g[2][2])),
        two * (w * z_axis + x * xz + y * yz - two * z * (g[0][0] + g[1][1])),
    )


@compiled
def _axes(camera: Any) -> Any:
    """The camera's rotation as three rows: across, down, forward."""
    return _vector(camera, 0), _vector(camera, 4), _vector(camera, 8)


@compiled
def _in_camera(row: Any, camera: Any) -> Any:
    x, y, z = _times(_axes(camera), _vector(row, 0))
    return x + camera[3], y + camera[7], z + camera[11]


@compiled
def _slope(slope: Any, focal: Any, centre: Any, side: int) -> Any:
    """A direction for the Jacobian: held a little outside of the image, where the affine approximation breaks down.

    Second result: whether it was free.
    """
    real = type(slope)
    margin = real(MARGIN) * real(0.5) * real(side)
    held = min(max(slope, -(centre + margin) / focal), (real(side) - centre + margin) / focal)
    return held, held == slope


@compiled
def _jacobian(point: Any, camera: Any, width: int, height: int) -> Any:
    """Rows `right` and `lower` of T, the slopes they were made with, and whether these were free."""
    x, y, z = point
    across, down, forward = _axes(camera)
    u, u_free = _slope(x / z, camera[12], camera[14], width)
    v, v_free = _slope(y / z, camera[13], camera[15], height)
    right = _sum(camera[12] / z, across, -u * camera[12] / z, forward)
    lower = _sum(camera[13] / z, down, -v * camera[13] / z, forward)
    return right, lower, u, v, u_free, v_free


@compiled
def _pixels(centre: Any, reach: Any, side: int) -> Any:
    """First and last pixel whose centre is within reach; the last before the first where there is none."""
    real = type(centre)
    # Held to the image before they are whole numbers: these have no infinity.
    first = min(max(np.ceil(centre - reach - real(0.5)), real(0)), real(side))
    last = max(min(np.floor(centre + reach - real(0.5)), real(side - 1)), real(-1))
    return int(first), int(last)


@compiled
def project(
    first: int, last: int, gaussians: Any, camera: Any, width: int, height: int, splats: Any, boxes: Any, depths: Any
) -> None:
    """Write splats `[N, 10]`, boxes `[N, 4]` (first column after the last where nothing is visible), depths `[N]`."""
    real = gaussians.dtype.type
    one, two, least = real(1), real(2), real(MIN_ALPHA)
    blur = camera[16]
    for i in range(first, last):
        row = gaussians[i]
        boxes[i, 0], boxes[i, 1], boxes[i, 2], boxes[i, 3] = 0, -1, 0, -1
        point = _in_camera(row, camera)
        if not point[2] >= real(NEAR):
            continue
        right, lower, _, _, _, _ = _jacobian(point, camera, width, height)
        rotation = _rotation(_unit_quaternion(row)[0], one)
        m = _each(_back(rotation, right), _vector(row, 7))
        n = _each(_back(rotation, lower), _vector(row, 7))
        normal = _cross(m, n)
        area = _dot(normal, normal)
        xx, xy, yy = _dot(m, m), _dot(m, n), _dot(n, n)
        determinant = area + blur * (xx + yy) + blur * blur
        opacity = row[10] * math.sqrt(area / determinant)
        if not opacity >= least:
            continue
        xx, yy = xx + blur, yy + blur
        limit = math.log(opacity / least)
        x = camera[12] * point[0] / point[2] + camera[14]
        y = camera[13] * point[1] / point[2] + camera[15]
        reach_x, reach_y = math.sqrt(two * limit * xx), math.sqrt(two * limit * yy)
        boxes[i, 0], boxes[i, 1] = _pixels(x, reach_x, width)
        boxes[i, 2], boxes[i, 3] = _pixels(y, reach_y, height)
        if boxes[i, 2] > boxes[i, 3]:
            boxes[i, 1] = boxes[i, 0] - 1
        out = splats[i]
        out[0], out[1] = x, y
        out[2], out[3], out[4] = yy / determinant, -xy / determinant, xx / determinant
        out[5], out[6] = opacity, limit
        out[7], out[8], out[9] = row[11], row[12], row[13]
        depths[i] = point[2]


@compiled
def _covariance_backward(splat: Any, gradient: Any) -> Any:
    """Gradients of xx, xy, yy from those of the inverse covariance: -Q G Q, off-diagonal counted twice."""
    a, b, c = splat[2], splat[3], splat[4]
    half = splat.dtype.type(0.5)
    g_a, g_b, g_c = gradient[2], half * gradient[3], gradient[4]
    p, q, r, s = a * g_a + b * g_b, a * g_b + b * g_c, b * g_a + c * g_b, b * g_b + c * g_c
    v = p * b + q * c
    return -(p * a + q * b), -(v + v), -(r * b + s * c)


@compiled
def _rows_backward(m: Any, n: Any, splat: Any, gradient: Any, g_factor: Any, blur: Any) -> Any:
    """Gradients of m and n: through the covariance, and through the factor sqrt(area / determinant) of the opacity."""
    normal = _cross(m, n)
    area = _dot(normal, normal)
    root = math.sqrt(area + blur * (_dot(m, m) + _dot(n, n)) + blur * blur)
    length = math.sqrt(area)
    g_xx, g_xy, g_yy = _covariance_backward(splat, gradient)
    half = splat.dtype.type(0.5)
    share = half * g_factor * length / root
    g_xx, g_xy, g_yy = g_xx - share * splat[2], g_xy - (share + share) * splat[3], g_yy - share * splat[4]
    direct = g_factor / (root * length)
    g_m = _sum(g_xx + g_xx, m, g_xy, n)
    g_n = _sum(g_yy + g_yy, n, g_xy, m)
    one = splat.dtype.type(1)
    return _sum(one, g_m, direct, _cross(n, normal)), _sum(one, g_n, direct, _cross(normal, m))


@compiled
def _outer(a: Any, b: Any, c: Any, d: Any) -> Any:
    """Rows of a b^T + c d^T."""
    return _sum(a[0], b, c[0], d), _sum(a[1], b, c[1], d), _sum(a[2], b, c[2], d)


@compiled
def _position_backward(point: Any, camera: Any, jacobian: Any, g_right: Any, g_lower: Any, gradient: Any) -> Any:
    """Gradient of the mean in camera coordinates: through where the splat is, and through the Jacobian."""
    x, y, z = point
    right, lower, u, v, u_free, v_free = jacobian
    forward = _vector(camera, 8)
    g_x, g_y = gradient[0] * camera[12] / z, gradient[1] * camera[13] / z
    g_z = -(g_x * x + g_y * y + _dot(right, g_right) + _dot(lower, g_lower)) / z
    g_u, g_v = -_dot(g_right, forward) * camera[12] / z, -_dot(g_lower, forward) * camera[13] / z
    if u_free:
        g_x += g_u / z
        g_z -= g_u * u / z
    if v_free:
        g_y += g_v / z
        g_z -= g_v * v / z
    return g_x, g_y, g_z


@compiled
def project_backward(
    first: int,
    last: int,
    gaussians: Any,
    camera: Any,
    width: int,
    height: int,
    order: Any,
    splats: Any,
    gradients: Any,
    out: Any,
) -> None:
    """Add to `out` `[N, 14]` what the `gradients` `[M, 9]` of the splats say about their Gaussians."""
    one = gaussians.dtype.type(1)
    for s in range(first, last):
        i, gradient = order[s], gradients[s]
        row, to = gaussians[i], out[i]
        point = _in_camera(row, camera)
        jacobian = _jacobian(point, camera, width, height)
        right, lower = jacobian[0], jacobian[1]
        q, inverse = _unit_quaternion(row)
        rotation, scales = _rotation(q, one), _vector(row, 7)
        m, n = _back(rotation, right), _back(rotation, lower)
        g_m, g_n = _rows_backward(
            _each(m, scales), _each(n, scales), splats[s], gradient, gradient[5] * row[10], camera[16]
        )
        g_scales = _sum(one, _each(g_m, m), one, _each(g_n, n))
        g_m, g_n = _each(g_m, scales), _each(g_n, scales)
        g_q = _rotation_backward(q, _outer(right, g_m, lower, g_n), one)
        g_point = _position_backward(point, camera, jacobian, _times(rotation, g_m), _times(rotation, g_n), gradient)
        g_mean = _back(_axes(camera), g_point)
        along = q[0] * g_q[0] + q[1] * g_q[1] + q[2] * g_q[2] + q[3] * g_q[3]
        for c in range(3):
            to[c] += g_mean[c]
            to[7 + c] += g_scales[c]
            to[11 + c] += gradient[6 + c]
        for c in range(4):
            to[3 + c] += (g_q[c] - along * q[c]) * inverse
        to[10] += gradient[5] * splats[s, 5] / row[10]
