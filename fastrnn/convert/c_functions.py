"""C99 source of the functions that an exported network uses.

They are the scalar form of src/vec.h and src/kernels_functions.h without fused multiply-add: the same operations in
the same order, so that the results are those of the portable build, bit for bit. ``real`` becomes float or double,
``@`` the prefix of all names.
"""

from __future__ import annotations

import re

_SHARED = {
    "product": """\
/* acc (N) += a (K) @ w (K, N): each sum in the order of k */
static void @product(int K, int N, const real *a, const real *w, real *acc)
{
    for (int k = 0; k < K; k++, w += N) {
        const real ak = a[k];
        for (int n = 0; n < N; n++)
            acc[n] = ak * w[n] + acc[n];
    }
}
""",
    "set": """\
static void @set(int N, real *to, real value)
{
    for (int n = 0; n < N; n++)
        to[n] = value;
}
""",
    "add": """\
static void @add(int N, real *to, const real *from)
{
    for (int n = 0; n < N; n++)
        to[n] = to[n] + from[n];
}
""",
    "abs": """\
static real @abs(real x)
{
    bits u;
    memcpy(&u, &x, sizeof u);
    u &= ~((bits)1 << (8 * sizeof u - 1));
    memcpy(&x, &u, sizeof u);
    return x;
}
""",
    "copysign": """\
static real @copysign(real x, real from)
{
    const bits sign = (bits)1 << (8 * sizeof(bits) - 1);
    bits u, v;
    memcpy(&u, &x, sizeof u);
    memcpy(&v, &from, sizeof v);
    u = (u & ~sign) | (v & sign);
    memcpy(&x, &u, sizeof u);
    return x;
}
""",
    "clip": """\
static real @clip(real x, real limit)
{
    return x < -limit ? -limit : x > limit ? limit : x;
}
""",
    "expm1_part": """\
/* x = n ln2 + r: returns exp(r) - 1, and 2^n in *scale */
static real @expm1_part(real x, real *scale)
{
    static const real q_of[] = {COEFFICIENTS};
    const volatile real sum = x * LOG2E + MAGIC;     /* rounded to this type, whatever the compiler may do elsewhere */
    const real shifted = sum, n = shifted - MAGIC;
    real r = n * -LN2_HIGH + x, q = q_of[DEGREE];
    bits u;
    r = n * -LN2_LOW + r;
    for (int i = DEGREE - 1; i >= 0; i--)
        q = q * r + q_of[i];
    memcpy(&u, &shifted, sizeof u);
    u = (bits)((u << SHIFT) + ((bits)BIAS << SHIFT));
    memcpy(scale, &u, sizeof u);
    return (r * r) * q + r;
}
""",
    "exponential": """\
static real @exponential(real x)
{
    real scale, p;
    x = x < EXP_MIN ? EXP_MIN : x;
    p = @expm1_part(x > EXP_MAX ? EXP_MAX : x, &scale);
    return (p + 1) * scale;
}
""",
    "expm1_below": """\
/* exp(x) - 1 for x <= 0 */
static real @expm1_below(real x)
{
    real scale;
    const real p = @expm1_part(x < EXP_MIN ? EXP_MIN : x, &scale);
    return p * scale + (scale - 1);
}
""",
    "relu": "static real @relu(real x)\n{\n    return x < 0 ? 0 : x;\n}\n",
    "affine": "static real @affine(real x, real alpha, real beta)\n{\n    return alpha * x + beta;\n}\n",
    "leaky_relu": "static real @leaky_relu(real x, real alpha)\n{\n    return x < 0 ? alpha * x : x;\n}\n",
    "thresholded_relu": "static real @thresholded_relu(real x, real alpha)\n{\n    return x <= alpha ? 0 : x;\n}\n",
    "scaled_tanh": """\
static real @scaled_tanh(real x, real alpha, real beta)
{
    return alpha * @tanh(beta * x);
}
""",
    "hard_sigmoid": """\
static real @hard_sigmoid(real x, real alpha, real beta)
{
    const real y = alpha * x + beta;
    return y < 0 ? 0 : y > 1 ? 1 : y;
}
""",
    "elu": """\
static real @elu(real x, real alpha)
{
    return x < 0 ? alpha * @expm1_below(x) : x;
}
""",
    "softsign": "static real @softsign(real x)\n{\n    return x / (1 + @abs(x));\n}\n",
    "softplus": """\
static real @softplus(real x)
{
    return (x < 0 ? 0 : x) + LOG1P(@exponential(-@abs(x)));
}
""",
    "selu": """\
static real @selu(real x)
{
    return SELU_SCALE * (x < 0 ? SELU_ALPHA * @expm1_below(x) : x);
}
""",
    "silu": "static real @silu(real x)\n{\n    return x * @sigmoid(x);\n}\n",
    "softmax": """\
/* softmax of x in place; with `logarithm`, its logarithm */
static void @softmax(int N, real *x, int logarithm)
{
    real most = x[0], sum = 0;
    for (int n = 1; n < N; n++)
        most = x[n] > most ? x[n] : most;
    for (int n = 0; n < N; n++)
        sum = sum + EXP(x[n] - most);
    for (int n = 0; n < N; n++)
        x[n] = logarithm ? x[n] - most - LOG(sum) : EXP(x[n] - most) / sum;
}
""",
}

_FLOAT = {
    "tanh_a": """\
/* a and b of tanh(x * scale) = 2ab / (a^2 + b^2); square is x^2 */
static float @tanh_a(float square, float scale)
{
    const float k = scale * scale;
    float a = square * (4.5638166739e-6f * k * k * k / scale) + 0.0044307210483f * k * k / scale;
    a = a * square + 0.41411244869f * k / scale;
    return a * square + 3.6600000858f / scale;
}
""",
    "tanh_b": """\
static float @tanh_b(float x, float square, float scale)
{
    const float k = scale * scale, b = square * (2.1062018641e-4f * k * k) + 0.054556272924f * k;
    return (b * square + 1.8300000429f) * x;
}
""",
    "tanh": """\
static float @tanh(float x)
{
    const float square = x * x, a = @tanh_a(square, 1), b = @tanh_b(x, square, 1);
    if (square > TANH_LIMIT)
        return x < 0 ? -1.0f : 1.0f;
    return (a + a) * b / (a * a + b * b);
}
""",
    "sigmoid": """\
static float @sigmoid(float x)
{
    const float square = x * x, a = @tanh_a(square, 0.5f), b = @tanh_b(@abs(x), square, 0.5f);
    const float ab = a * b, rest = a - b, rest2 = rest * rest, sum = rest2 + (ab + ab);
    const float w = square > 4 * TANH_LIMIT ? 0 : rest2 / (sum + sum);
    return x < 0 ? w : 1 - w;
}
""",
}

_DOUBLE = {
    "tanh": """\
static double @tanh(double x)
{
    double scale, ax = @abs(x), p, e;
    ax = ax > 20 ? 20 : ax;
    p = @expm1_part(ax + ax, &scale);
    e = p * scale + (scale - 1);
    return @copysign(e / (e + 2), x);
}
""",
    "sigmoid": "static double @sigmoid(double x)\n{\n    return 1 / (1 + @exponential(-x));\n}\n",
}

# The constants of src/vec.h and src/kernels_functions.h
_FLOAT_CONSTANTS = {
    "bits": "uint32_t", "LOG2E": "1.44269504088896341f", "MAGIC": "12582912.0f", "LN2_HIGH": "0.693359375f",
    "LN2_LOW": "(-2.12194440054690583e-4f)", "DEGREE": "5", "SHIFT": "23", "BIAS": "127", "EXP_MIN": "-87.0f",
    "EXP_MAX": "88.0f", "TANH_LIMIT": "69.7225037f", "SELU_SCALE": "(float)1.0507009873554804934193349852946",
    "SELU_ALPHA": "(float)1.6732632423543772848170429916717", "LOG1P": "log1pf", "LOG": "logf", "EXP": "expf",
    "COEFFICIENTS": "0.50000000134981779f, 0.16666666681659179f, 0.041666464602026542f, 0.0083333108895820772f,\n"
                    "        0.0013933685862617174f, 0.00019891030654370328f",
}  # fmt: skip
_DOUBLE_CONSTANTS = {
    "bits": "uint64_t", "LOG2E": "1.44269504088896340736", "MAGIC": "6755399441055744.0",
    "LN2_HIGH": "6.93147180369123816490e-01", "LN2_LOW": "1.90821492927058770002e-10", "DEGREE": "9", "SHIFT": "52",
    "BIAS": "1023", "EXP_MIN": "-708.0", "EXP_MAX": "709.0", "SELU_SCALE": "1.0507009873554804934193349852946",
    "SELU_ALPHA": "1.6732632423543772848170429916717", "LOG1P": "log1p", "LOG": "log", "EXP": "exp",
    "COEFFICIENTS": "0.50000000000000010262, 0.16666666666666667456, 0.041666666666623991516,\n"
                    "        0.0083333333333300513464, 0.0013888888917281793308, 0.00019841269863105968748,\n"
                    "        0.000024801521190217727651, 2.7557268378684192873e-6, 2.7620138719973995569e-7,\n"
                    "        2.5100424157005066788e-8",
}  # fmt: skip


def source(names: set[str], is_double: bool, prefix: str) -> str:
    """Write the functions `names`, and those that they call, each after those that it calls."""
    texts = {**_SHARED, **(_DOUBLE if is_double else _FLOAT)}
    constants = _DOUBLE_CONSTANTS if is_double else _FLOAT_CONSTANTS
    written: dict[str, str] = {}

    def write(name):
        if name in written or name not in texts:
            return
        text = texts[name]
        for called in re.findall(r"@(\w+)\(", text):
            if called != name:
                write(called)
        text = re.sub(r"[A-Z][A-Z0-9_]+|\bbits\b", lambda found: constants.get(found[0], found[0]), text)
        written[name] = re.sub(r"\breal\b", "double" if is_double else "float", text).replace("@", prefix + "_")

    for name in sorted(names):
        write(name)
    return "\n".join(written.values())
