"""Compute the table of tanh in src/vec.h (TANH_A, TANH_B): `python tests/fit_activations.py` prints it and its error.

tanh(x) = 2ab / (a^2 + b^2) with b/a = tanh(x/2), a = A(x^2) of degree 3 and b = x B(x^2) of degree 2. The fit is
linear, |b - a tanh(x/2)| with weights, and Lawson's iteration turns least squares into a minimax fit of the relative
error of tanh. The coefficients are rounded to float32 one by one, the highest first, and the others are refitted each
time. B_0, A_0 = 2 B_0 and the limit are fixed: this pair has the smallest rounding error (measured over float32) of
those tried in steps of 0.005 and 0.05.
"""

import numpy as np

LIMIT, B_0 = 8.35, float(np.float32(1.83))  # for |x| up to here; 1 - tanh(8.35) is 1.9 ulp
POINTS, ROUNDS = 800, 200

x = LIMIT * (0.5 - 0.5 * np.cos(np.pi * (np.arange(POINTS) + 0.5) / POINTS))
square = x * x


def relative_error(a, b):
    """Return the error of the formula at each x, without rounding errors, in units of 2^-24 (half to one ulp)."""
    a, b = np.polynomial.polynomial.polyval(square, a), x * np.polynomial.polynomial.polyval(square, b)
    return np.abs(2 * a * b / (a * a + b * b) / np.tanh(x) - 1) * 2**24


def minimax(coef, free):
    """Return coef = A_1, A_2, A_3, B_1, B_2 with the `free` ones fitted."""
    half = np.tanh(x / 2)
    columns = np.array([-half * square, -half * square**2, -half * square**3, x * square, x * square**2]).T
    fixed = [i for i in range(5) if i not in free]
    rest = B_0 * (2 * half - x) - columns[:, fixed] @ coef[fixed]
    gain = 2 * (1 - half**2) / (1 + half**2) ** 2 / np.tanh(x)  # the effect of an error of tanh(x/2) on tanh(x)
    lawson, a, best, least = np.ones(POINTS), np.cosh(x / 4) ** 2, coef, np.inf
    for _ in range(ROUNDS):
        weight = np.sqrt(lawson) * gain / a
        matrix = columns[:, free] * weight[:, None]
        size = np.abs(matrix).max(0)
        trial = coef.copy()
        trial[free] = np.linalg.lstsq(matrix / size, rest * weight, rcond=None)[0] / size
        error = relative_error(*split(trial))
        if error.max() < least:
            best, least = trial, error.max()
        a = np.polynomial.polynomial.polyval(square, split(trial)[0])
        lawson *= np.minimum(error, 100 * np.median(error))
        lawson /= lawson.sum()
    return best


def split(coef):
    return np.array([2 * B_0, *coef[:3]]), np.array([B_0, *coef[3:]])


def fit():
    coef = minimax(np.zeros(5), [0, 1, 2, 3, 4])
    order = [2, 1, 0, 4, 3]
    for n, i in enumerate(order):
        coef[i] = np.float32(coef[i])
        if order[n + 1 :]:
            coef = minimax(coef, order[n + 1 :])
    return split(coef)


if __name__ == "__main__":
    a, b = fit()
    print(
        f"TANH_A {a.tolist()}\nTANH_B {b.tolist()}\nTANH_LIMIT {np.float32(LIMIT**2)}\n"
        f"error {relative_error(a, b).max():.3f} * 2^-24"
    )
