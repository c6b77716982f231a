"""What counts and what does not: the constants that all backends share, those of gsplat's rasterizer.

Compiled kernels contain them: after a change here, remove the `__pycache__` beside this file.
"""

from __future__ import annotations

NEAR = 0.01  # nearest depth that is drawn
MIN_ALPHA = 1 / 255  # a contribution below is skipped
MAX_ALPHA = 0.999  # no splat hides more
MIN_TRANSMITTANCE = 1e-4  # a pixel ends before the splat that would leave this or less
MARGIN = 0.3  # of half the view: how far outside of it a splat's direction still shapes its projection
