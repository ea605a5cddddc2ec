# SPDX-License-Identifier: Apache-2.0
"""The only names that schedules and rules may use: `csrc/core/platform.h` in Triton, in float64.

libdevice does not run under Triton's interpreter, its sin keeps a stack frame, and `exp(y * log(x))` in plain float64
loses a digit for each digit of `y * log(x)`. So these are written out, from additions and multiplications alone: one
text for the interpreter and for every device. Sums of two float64 (`high + low`) carry what one cannot. All of it needs
`enable_fp_fusion=False`: contraction would spoil the error terms. Products are split by Dekker's method, since
the interpreter's fma rounds twice.
"""

import triton
import triton.language as tl

# ln 2 in two parts: the first has 42 bits, so that its product with an exponent is exact.
LN2_HIGH: tl.constexpr = tl.constexpr(float.fromhex("0x1.62e42fefa38p-1"))
LN2_LOW: tl.constexpr = tl.constexpr(float.fromhex("0x1.ef35793c7673p-45"))
INVERSE_LN2: tl.constexpr = tl.constexpr(1.4426950408889634)
SQRT_HALF: tl.constexpr = tl.constexpr(0.7071067811865476)
THIRD_HIGH: tl.constexpr = tl.constexpr(1.0 / 3.0)
THIRD_LOW: tl.constexpr = tl.constexpr(1.850371707708594e-17)
HALF_PI: tl.constexpr = tl.constexpr(1.5707963267948966)
HALF_PI_LOW: tl.constexpr = tl.constexpr(6.123233995736766e-17)
QUARTER_PI: tl.constexpr = tl.constexpr(0.7853981633974483)
INF: tl.constexpr = tl.constexpr(float("inf"))
NAN: tl.constexpr = tl.constexpr(float("nan"))


@triton.jit
def two_sum(a, b):
    """a + b, and what rounding lost of it. Knuth."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


@triton.jit
def two_product(a, b):
    """a * b, and what rounding lost of it, for |a|, |b| < 2**990. Dekker."""
    p = a * b
    c = a * 134217729.0  # 2**27 + 1: cuts 53 bits in two halves
    a_high = c - (c - a)
    a_low = a - a_high
    c = b * 134217729.0
    b_high = c - (c - b)
    b_low = b - b_high
    return p, ((a_high * b_high - p) + a_high * b_low + a_low * b_high) + a_low * b_low


@triton.jit
def power_of_two(n):
    """2.0 ** n for a whole number -1022 <= n <= 1023."""
    return ((n.to(tl.int64) + 1023) << 52).to(tl.float64, bitcast=True)


@triton.jit
def log_sum(high, low):
    """log(high + low) as a sum of two, to 2**-65 of its value. high > 0; low is 0 unless 0.5 <= high <= 1."""
    tiny = high < 2.2250738585072014e-308
    bits = tl.where(tiny, high * 18014398509481984.0, high).to(tl.int64, bitcast=True)  # 2**54
    exponent = ((bits >> 52) & 0x7FF) - tl.where(tiny, 1076, 1022)
    m = ((bits & 0xFFFFFFFFFFFFF) | 0x3FE0000000000000).to(tl.float64, bitcast=True)
    small = m < SQRT_HALF
    m = tl.where(small, 2.0 * m, m)
    e = (exponent - small.to(tl.int64)).to(tl.float64)
    m_low = tl.where(e < 0.0, 2.0 * low, low)
    # log(m) = 2 * (s + s**3/3 + s**5/5 + ...), s = (m - 1) / (m + 1), |s| < 0.172. m - 1 is exact.
    top, top_low = two_sum(m - 1.0, m_low)
    bottom, bottom_low = two_sum(m, 1.0)
    bottom_low += m_low
    s = top / bottom
    p, p_low = two_product(s, bottom)
    s, s_low = two_sum(s, ((((top - p) - p_low) + top_low) - s * bottom_low) / bottom)
    z, z_low = two_product(s, s)
    z_low += 2.0 * s * s_low
    q = z * (1.0 / 25.0) + 1.0 / 23.0
    q = z * q + 1.0 / 21.0
    q = z * q + 1.0 / 19.0
    q = z * q + 1.0 / 17.0
    q = z * q + 1.0 / 15.0
    q = z * q + 1.0 / 13.0
    q = z * q + 1.0 / 11.0
    q = z * q + 1.0 / 9.0
    q = z * q + 1.0 / 7.0
    q = z * q + 0.2
    third, third_low = two_product(z, tl.full(z.shape, THIRD_HIGH, tl.float64))
    t, t_low = two_sum(third, z * z * q)
    t_low += third_low + z * THIRD_LOW + z_low * THIRD_HIGH
    u, u_low = two_product(s, t)
    a, a_low = two_sum(s, u)
    a_low += u_low + s * t_low + s_low * t + s_low
    h, h_low = two_sum(e * LN2_HIGH, 2.0 * a)
    return two_sum(h, h_low + (2.0 * a_low + e * LN2_LOW))


@triton.jit
def reduced(high, low):
    """k, r, q with exp(high + low) = 2**k * (1 + r + q): k whole, |r| < 0.35, q small. Past 800 all is 0 or inf."""
    low = tl.where(tl.abs(high) <= 800.0, low, 0.0)
    high = tl.minimum(tl.maximum(high, -800.0), 800.0)
    k = tl.floor(high * INVERSE_LN2 + 0.5)
    r, r_low = two_sum(high - k * LN2_HIGH, low - k * LN2_LOW)  # the first difference is exact
    q = r * (1.0 / 1307674368000.0) + 1.0 / 87178291200.0
    q = r * q + 1.0 / 6227020800.0
    q = r * q + 1.0 / 479001600.0
    q = r * q + 1.0 / 39916800.0
    q = r * q + 1.0 / 3628800.0
    q = r * q + 1.0 / 362880.0
    q = r * q + 1.0 / 40320.0
    q = r * q + 1.0 / 5040.0
    q = r * q + 1.0 / 720.0
    q = r * q + 1.0 / 120.0
    q = r * q + 1.0 / 24.0
    q = r * q + 1.0 / 6.0
    q = r * q + 0.5
    return k, r, r * r * q + (r_low + r * r_low)


@triton.jit
def exp_sum(high, low):
    """exp(high + low); inf and 0 past the ends."""
    k, r, q = reduced(high, low)
    s, s_low = two_sum(tl.full(r.shape, 1.0, tl.float64), r)
    half = tl.floor(0.5 * k)  # in two steps, for results that are subnormal or near the end
    return (s + (s_low + q)) * power_of_two(half) * power_of_two(k - half)


@triton.jit
def expm1_sum(high, low):
    """exp(high + low) - 1 with all its digits, also near 0."""
    k, r, q = reduced(high, low)
    k = tl.maximum(k, -200.0)  # far below: the result is -1
    half = tl.floor(0.5 * k)
    first, second = power_of_two(half), power_of_two(k - half)
    s, s_low = two_sum(first * second, tl.full(r.shape, -1.0, tl.float64))
    s, r_low = two_sum(s, r * first * second)
    value = s + ((s_low + r_low) + q * first * second)
    return tl.where(high > 709.8, INF, value)


@triton.jit
def pow(x, y):
    """x ** y as C has it, to 1 ulp. y is finite."""
    size = tl.abs(x)
    plain = (size > 0.0) & (size < INF)
    high, low = log_sum(tl.where(plain, size, 1.0), tl.full(size.shape, 0.0, tl.float64))
    y_near = tl.minimum(tl.maximum(y, -1e21), 1e21)  # past that every result is 0, 1 or inf
    p, p_low = two_product(high, y_near)
    value = exp_sum(p, p_low + low * y_near)
    value = tl.where(size == 0.0, tl.where(y > 0.0, 0.0, INF), value)
    value = tl.where(size == INF, tl.where(y > 0.0, INF, 0.0), value)
    half = 0.5 * y
    whole, odd = tl.floor(y) == y, (tl.floor(half) != half) & (tl.abs(y) < 9007199254740992.0)
    value = tl.where(x < 0.0, tl.where(whole | (size == INF), tl.where(odd, -value, value), NAN), value)
    value = tl.where(x != x, x, value)
    return tl.where(y == 0.0, 1.0, value)


@triton.jit
def bias_correction(beta, step):
    """1 - beta ** step without the cancellation of the plain form. beta = 0 gives 1."""
    high, low = log_sum(tl.where(beta > 0.0, beta, 0.5), tl.full(beta.shape, 0.0, tl.float64))
    p, p_low = two_product(high, step)
    return tl.where(beta > 0.0, -expm1_sum(p, p_low + low * step), 1.0)


@triton.jit
def sin(x):
    """sin(x) for 0 <= x <= pi/2: its own series in the lower half, the cosine of the rest to pi/2 in the upper."""
    a = tl.minimum(x, QUARTER_PI)
    z = a * a
    q = -z * (1.0 / 121645100408832000.0) + 1.0 / 355687428096000.0
    q = z * q - 1.0 / 1307674368000.0
    q = z * q + 1.0 / 6227020800.0
    q = z * q - 1.0 / 39916800.0
    q = z * q + 1.0 / 362880.0
    q = z * q - 1.0 / 5040.0
    q = z * q + 1.0 / 120.0
    q = z * q - 1.0 / 6.0
    lower = a + a * (z * q)
    gap = -(tl.maximum(x, QUARTER_PI) - HALF_PI)
    b, b_low = two_sum(gap, tl.full(gap.shape, HALF_PI_LOW, tl.float64))
    z, z_low = two_product(b, b)
    z_low += 2.0 * b * b_low
    q = -z * (1.0 / 6402373705728000.0) + 1.0 / 20922789888000.0
    q = z * q - 1.0 / 87178291200.0
    q = z * q + 1.0 / 479001600.0
    q = z * q - 1.0 / 3628800.0
    q = z * q + 1.0 / 40320.0
    q = z * q - 1.0 / 720.0
    q = z * q + 1.0 / 24.0
    s = 1.0 - 0.5 * z
    upper = s + (((1.0 - s) - 0.5 * z) + (z * z * q - 0.5 * z_low))
    return tl.where(x < QUARTER_PI, lower, upper)


@triton.jit
def fmod(x, y):
    """x - y * trunc(x / y), exactly, for y > 0 and a quotient below 2**53."""
    size = tl.abs(x)
    n = tl.floor(size / y)
    p, p_low = two_product(n, tl.full(n.shape, 0.0, tl.float64) + y)
    r = (size - p) - p_low  # exact: near each other; n may be one too large
    r = tl.where(r < 0.0, r + y, r)
    return tl.where(x < 0.0, -r, r)
