"""Smooth ECE (Blasiok & Nakkiran 2023, arXiv:2309.12236): a kernel in place of bins."""

import math

import numpy as np
from numpy.typing import NDArray

NUM_POINTS = 512  # where the smoothed residual is integrated


def smooth_error(residual: NDArray[np.float64], tolerance: float = 1e-7) -> float:
    """Return the sigma at which `smECE_sigma = sigma`.

    `smECE_sigma` is the integral over [0, 1] of |residual smoothed by a Gaussian of width sigma|,
    the Gaussian reflected at 0 and 1 so that no mass leaves (the authors' code loses some there).
    It falls as sigma grows, hence one crossing. Reflected smoothing multiplies the coefficients of
    `cos(pi k t)`, a DCT-II of the cells, by `exp(-(pi k sigma)^2 / 2)`.

    Args:
        residual: (m,) sums of confidence minus correctness in m > 512 equal cells, over N. Each
            counts at its cell's centre, which costs some 1e-6 of accuracy at 10,000 cells.
        tolerance: of sigma.
    """
    k = np.arange(NUM_POINTS + 1)
    # Mirrored to period 2, a real FFT is the DCT but for the half sample between their origins.
    mirrored = np.fft.rfft(np.concatenate([residual, residual[::-1]]))[: NUM_POINTS + 1]
    cosines = (mirrored * np.exp(-0.5j * np.pi * k / len(residual))).real
    spectrum = cosines * np.exp(0.5j * np.pi * k / NUM_POINTS)

    low, high, sigma, power = 0.0, 1.0, 0.05, 0.8
    last: tuple[float, float] | None = None
    while high - low > tolerance:
        decay = np.exp(-0.5 * (np.pi * k * sigma) ** 2)
        error = float(np.abs(np.fft.irfft(spectrum * decay)[:NUM_POINTS]).sum())
        if abs(error - sigma) <= tolerance:
            break
        low, high = (sigma, high) if error > sigma else (low, sigma)
        # smECE is nearly a power of sigma, so the secant of log(error / sigma) finds its zero.
        log_sigma, log_ratio = math.log(sigma), math.log(max(error, 1e-300) / sigma)
        if last:
            power = min(max((log_sigma - last[0]) / (last[1] - log_ratio), 0.3), 1.0)
        last = log_sigma, log_ratio
        guess = math.exp(log_sigma + power * log_ratio)
        sigma = guess if low < guess < high else (low + high) / 2
    return sigma
