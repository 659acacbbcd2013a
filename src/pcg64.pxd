"""NumPy's default generator of random numbers: the same numbers as ``np.random.default_rng(key)``.

PCG XSL RR 128/64 (O'Neill 2014), seeded by numpy.random.SeedSequence, whose outputs are part of NumPy's guarantee.
"""
from libc.stdint cimport uint32_t, uint64_t

cdef struct Generator:
    uint64_t high, low                 # the state
    uint64_t inc_high, inc_low
    bint has_half                      # whether `half` is the upper half of a number whose lower half was used
    uint32_t half

cdef inline uint32_t hash_word(uint32_t value, uint32_t *factor, uint32_t multiplier) noexcept nogil:
    value ^= factor[0]
    factor[0] *= multiplier
    value *= factor[0]
    return value ^ (value >> 16)

cdef inline void multiply_wide(uint64_t a, uint64_t b, uint64_t *high, uint64_t *low) noexcept nogil:
    """a * b in 128 bits."""
    cdef uint64_t a0 = <uint32_t>a, a1 = a >> 32, b0 = <uint32_t>b, b1 = b >> 32
    cdef uint64_t middle = a1 * b0 + ((a0 * b0) >> 32)
    cdef uint64_t other = a0 * b1 + <uint32_t>middle
    high[0] = a1 * b1 + (middle >> 32) + (other >> 32)
    low[0] = a * b

cdef inline void add_wide(Generator *g, uint64_t high, uint64_t low) noexcept nogil:
    g.low += low
    g.high += high + (1 if g.low < low else 0)

cdef inline void advance(Generator *g) noexcept nogil:
    """state = state * 0x2360ed051fc65da44385df649fccf645 + inc"""
    cdef uint64_t high, low
    multiply_wide(g.low, <uint64_t>0x4385df649fccf645, &high, &low)
    high += g.high * <uint64_t>0x4385df649fccf645 + g.low * <uint64_t>0x2360ed051fc65da4
    g.high, g.low = high, low
    add_wide(g, g.inc_high, g.inc_low)

cdef inline Generator generator(uint64_t key) noexcept nogil:
    """``np.random.default_rng(key)``"""
    cdef Generator g
    cdef uint32_t pool[4]
    cdef uint64_t state[4]
    cdef uint32_t factor = <uint32_t>0x43b0d7e5, word
    cdef int i, j
    for i in range(4):
        pool[i] = hash_word(<uint32_t>(key >> 32 * i) if i < 2 else 0, &factor, <uint32_t>0x931e8875)
    for i in range(4):
        for j in range(4):
            if i != j:
                word = <uint32_t>0x4973f715 * hash_word(pool[i], &factor, <uint32_t>0x931e8875)
                word = <uint32_t>0xca01f9dd * pool[j] - word
                pool[j] = word ^ (word >> 16)
    factor = <uint32_t>0x8b51f9dd
    for i in range(4):
        state[i] = hash_word(pool[2 * i % 4], &factor, 0x58f38ded)
        state[i] |= <uint64_t>hash_word(pool[(2 * i + 1) % 4], &factor, 0x58f38ded) << 32
    g.inc_high, g.inc_low = (state[2] << 1) | (state[3] >> 63), (state[3] << 1) | 1
    g.high = g.low = 0
    g.has_half, g.half = False, 0
    advance(&g)
    add_wide(&g, state[0], state[1])
    advance(&g)
    return g

cdef inline uint64_t next_word(Generator *g) noexcept nogil:
    advance(g)
    cdef uint64_t mixed = g.high ^ g.low
    cdef int turn = <int>(g.high >> 58)
    return (mixed >> turn) | (mixed << ((64 - turn) & 63))

cdef inline uint32_t next_half(Generator *g) noexcept nogil:
    cdef uint64_t word
    if g.has_half:
        g.has_half = False
        return g.half
    word = next_word(g)
    g.has_half, g.half = True, <uint32_t>(word >> 32)
    return <uint32_t>word

cdef inline uint32_t below(Generator *g, uint32_t bound) noexcept nogil:
    """As ``integers(bound)``, 1 <= bound < 2**32 - 1 (Lemire 2019)."""
    cdef uint64_t product
    cdef uint32_t least
    if bound == 1:
        return 0
    product = <uint64_t>next_half(g) * bound
    if <uint32_t>product < bound:
        least = (<uint32_t>0xFFFFFFFF - (bound - 1)) % bound
        while <uint32_t>product < least:
            product = <uint64_t>next_half(g) * bound
    return <uint32_t>(product >> 32)
