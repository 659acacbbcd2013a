"""Every exported kernel on every ISA against NumPy float64: odd sizes, misaligned, guarded on both sides."""

import re
from pathlib import Path

import fit_activations
import numpy as np
import processes
import pytest
from nets import DTYPES, Case, make, random_params, same_bits

import fastrnn
from fastrnn import _check, _engine

SIZES = [1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65]
FILLS = ["normal", "huge", "tiny", "zero", "nan"]
EPS = {dtype: float(np.finfo(dtype).eps) for dtype in DTYPES}


@pytest.fixture(params=DTYPES)
def dtype(request):
    return request.param


class Guarded:
    """Return an array off alignment with guard values around it; `intact()` tells whether they are unchanged."""

    GUARD = 32  # elements, two of the widest vectors

    def __init__(self, values, guard=np.nan):
        values = np.asarray(values)
        if values.dtype.kind != "f":
            guard = 77
        count, item = values.size, values.itemsize
        raw = np.empty((count + 2 * self.GUARD + 2) * item + 64, "u1")
        start = -raw.ctypes.data % 64 + item  # 64-byte aligned, then one element further
        self.whole = raw[start : start + (count + 2 * self.GUARD) * item].view(values.dtype)
        self.whole[:] = guard
        self.array = self.whole[self.GUARD : self.GUARD + count].reshape(values.shape)
        self.array[...] = values
        assert self.array.ctypes.data % 64 != 0 or count == 0
        self.before, self.after = self.whole[: self.GUARD].tobytes(), self.whole[self.GUARD + count :].tobytes()

    def intact(self):
        count = self.array.size
        return (
            self.whole[: self.GUARD].tobytes() == self.before
            and self.whole[self.GUARD + count :].tobytes() == self.after
        )


def guarded(*arrays):
    boxes = [Guarded(a) for a in arrays]
    return boxes, [box.array for box in boxes]


def fill(rng, kind, shape, dtype):
    a = rng.standard_normal(shape).astype(dtype)
    if kind == "huge":
        a *= dtype_limit(dtype) ** 0.4
    elif kind == "tiny":
        a *= float(np.finfo(dtype).tiny) ** 0.45
    elif kind == "zero":
        a[...] = 0
    elif kind == "nan" and a.size:
        a.reshape(-1)[rng.integers(a.size)] = np.nan
    return a


def dtype_limit(dtype):
    return float(np.finfo(dtype).max)


def close(got, want, bound, what=""):
    """Assert |got - want| <= bound, with NaN exactly where NaN is expected."""
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want), err_msg=f"{what}: where the NaNs are")
    finite = np.isfinite(want)
    error = np.abs(got.astype("float64") - want)[finite]
    bound = np.broadcast_to(bound, want.shape)[finite]
    assert (error <= bound).all(), f"{what}: error {error.max()} above {bound[np.argmax(error - bound)]}"


# --- products -----------------------------------------------------------------


def product_bound(x, w, dtype):
    """Bound of K chained multiply-adds: |error| <= K eps sum |x w| (Higham 2002, §3.1), and flushed denormals."""
    K = x.shape[1]
    return (K + 2) * EPS[dtype] * (np.abs(x.astype("float64")) @ np.abs(w.astype("float64")).T) + (K + 1) * float(
        np.finfo(dtype).tiny
    )


@pytest.mark.parametrize("kind", FILLS)
@pytest.mark.parametrize("N", SIZES)
def test_product_agrees_with_float64_and_writes_nothing_else(isa, dtype, N, kind):
    rng = np.random.default_rng(N)
    for M, K in [(1, 1), (1, 17), (2, 8), (3, 33), (5, 16), (7, 65), (8, 3), (13, 9), (29, 31), (1, 600), (4, 1100)]:
        x, w, bias = (
            fill(rng, kind, (M, K), dtype),
            rng.standard_normal((N, K)).astype(dtype),
            rng.standard_normal(N).astype(dtype),
        )
        for b in (None, bias):
            boxes, (gx, gw, gy) = guarded(x, w, np.full((M, N), 7, dtype))
            gb = None if b is None else Guarded(b)
            _engine.product(gx, _engine.pack(gw), None if gb is None else gb.array, gy)
            want = x.astype("float64") @ w.astype("float64").T + (0 if b is None else b.astype("float64"))
            bound = product_bound(x, w, dtype) + (0 if b is None else 2 * EPS[dtype] * np.abs(b.astype("float64")))
            close(gy, want, bound, f"M={M} K={K}")
            assert all(box.intact() for box in boxes) and (gb is None or gb.intact())
            same_bits(gx, x, "x was written")
            same_bits(gw, w, "w was written")


def test_product_of_no_columns_is_the_bias_and_of_no_rows_is_nothing(isa, dtype):
    bias = np.arange(5).astype(dtype)
    y = np.full((3, 5), 9, dtype)
    packed = _engine.pack(np.empty((5, 0), dtype))
    _engine.product(np.empty((3, 0), dtype), packed, bias, y)
    same_bits(y, np.tile(bias, (3, 1)))
    _engine.product(np.empty((3, 0), dtype), packed, None, y)
    same_bits(y, np.zeros((3, 5), dtype))
    _engine.product(np.empty((0, 4), dtype), _engine.pack(np.ones((5, 4), dtype)), bias, np.empty((0, 5), dtype))


@pytest.mark.parametrize("N", [1, 16, 33, 65, 130])
@pytest.mark.parametrize("K", [1, 17, 300, 1100])
def test_a_row_of_a_product_has_the_same_bits_for_any_number_of_rows(isa, dtype, N, K):
    """Compare all tile variants with each other: M from 1 to 20, and any division of the rows."""
    rng = np.random.default_rng(0)
    x, packed, bias = (
        rng.standard_normal((20, K)).astype(dtype),
        _engine.pack(rng.standard_normal((N, K)).astype(dtype)),
        rng.standard_normal(N).astype(dtype),
    )

    def product(rows):
        y = np.empty((len(rows), N), dtype)
        _engine.product(rows, packed, bias, y)
        return y

    want = product(x)
    for M in range(1, 21):
        same_bits(product(x[:M].copy()), want[:M], f"the first {M} rows")
        same_bits(np.concatenate([product(x[:M].copy()), product(x[M:].copy())]), want, f"split at {M}")
    order = rng.permutation(20)
    same_bits(product(x[order]), want[order], "permuted rows")


def test_a_row_of_a_product_has_the_same_bits_on_any_number_of_threads(isa, dtype):
    rng = np.random.default_rng(1)
    x, packed = (
        rng.standard_normal((500, 130)).astype(dtype),
        _engine.pack(rng.standard_normal((257, 130)).astype(dtype)),
    )
    results = []
    for n in (1, 2, 3):
        y = np.empty((500, 257), dtype)
        with fastrnn.threads(n):
            _engine.product(x, packed, None, y)
        results.append(y)
    same_bits(results[1], results[0], "2 threads")
    same_bits(results[2], results[0], "3 threads")


@pytest.mark.parametrize("columns", [-5, 0, 70])
def test_rows_have_the_same_bits_alone_on_both_sides_of_the_size_of_l2(isa, dtype, columns):
    """Beyond 512 KB, the tiles of a panel prefetch the next one, and those of the last panel what comes after it."""
    K, M, rng = 600, 40, np.random.default_rng(5)
    N = 512 * 1024 // (K * np.dtype(dtype).itemsize) + columns
    x, weight = rng.standard_normal((M, K)).astype(dtype), rng.standard_normal((N, K)).astype(dtype)
    packed, y, alone = _engine.pack(weight), np.empty((M, N), dtype), np.empty((1, N), dtype)
    _engine.product(x, packed, None, y)
    for m in (0, 5, 6, 39):
        _engine.product(x[m : m + 1], packed, None, alone)
        same_bits(y[m : m + 1], alone, f"row {m}")


def gemm_cases(dtype):
    """Return op(a) (M,K) and op(b) (K,N), with rows longer than the part that is used."""
    rng = np.random.default_rng(2)
    small = [(1, 1, 1), (3, 5, 2), (17, 9, 33), (64, 48, 100), (5, 0, 3), (0, 4, 3), (4, 4, 0)]
    large = [
        (130, 65, 7),
        (300, 70, 129),
        (20, 33, 700),
        (5, 2000, 1500),
        (200, 300, 130),
    ]  # several tiles, blocks of k, and slices between signals
    for M, N, K in small + large:
        for trans_a in (False, True):
            for trans_b in (False, True):
                rows_a, cols_a = (K, M) if trans_a else (M, K)
                rows_b, cols_b = (N, K) if trans_b else (K, N)
                a = rng.standard_normal((rows_a, cols_a + 3)).astype(dtype)[:, 1 : cols_a + 1]
                b = rng.standard_normal((rows_b, cols_b + 2)).astype(dtype)[:, :cols_b]
                yield trans_a, trans_b, a, b, rng.standard_normal((M, N)).astype(dtype)


def check_gemm(dtype):
    for trans_a, trans_b, a, b, c in gemm_cases(dtype):
        op_a, op_b = (a.T if trans_a else a).astype("float64"), (b.T if trans_b else b).astype("float64")
        K = op_a.shape[1]
        want = c.astype("float64") + op_a @ op_b
        bound = (K + 2) * EPS[dtype] * (np.abs(op_a) @ np.abs(op_b) + np.abs(c.astype("float64"))) + 1e-300
        # c is a window; the elements around it must not change
        wide = np.full((c.shape[0] + 2, c.shape[1] + 4), 7, dtype)
        window = wide[1 : 1 + c.shape[0], 2 : 2 + c.shape[1]]
        window[...] = c
        _engine.gemm(trans_a, trans_b, a, b, window)
        close(window, want, bound, f"M={c.shape[0]} N={c.shape[1]} K={K} {trans_a} {trans_b}")
        window[...] = 7
        assert (wide == 7).all(), "something outside c was written"


def test_gemm_agrees_with_float64_and_writes_nothing_else(isa, dtype):
    check_gemm(dtype)


@pytest.mark.parametrize("blas", ["builtin", "as built"])
def test_gemm_agrees_with_float64_with_and_without_blas(blas):
    """FASTRNN_BLAS is read when BLAS is loaded, so each variant gets its own process."""
    code = """
import fastrnn, test_kernels
for dtype in ("float32", "float64"):
    test_kernels.check_gemm(dtype)
fastrnn.show_config()
"""
    shown = processes.output(code, **({"FASTRNN_BLAS": "builtin"} if blas == "builtin" else {}))
    if blas == "builtin":
        assert "builtin" in shown, shown


def check_gemm_of_parts(dtype):
    rng, width = np.random.default_rng(4), 4 * _engine.vector_lanes(dtype == "float64")
    for M, N, K in [
        (1, 1, 300),
        (7, 2 * width, 129),
        (width - 5, 2 * width + 1, 128),
        (3 * width + 7, 3 * width - 5, 257),
        (400, 9, 256),
        (50, 2 * width + 1, 96),
    ]:
        for trans_a in (False, True):
            a, b = (
                rng.standard_normal((K, M) if trans_a else (M, K)).astype(dtype),
                rng.standard_normal((K, N)).astype(dtype),
            )
            start = rng.standard_normal((M, N)).astype(dtype)
            whole, parts = start.copy(), start.copy()
            _engine.gemm(trans_a, False, a, b, whole)
            m, n = rng.integers(0, M + 1), rng.integers(0, N + 1)
            for rows in (slice(0, m), slice(m, M)):
                for columns in (slice(0, n), slice(n, N)):
                    part = np.ascontiguousarray(parts[rows, columns])
                    _engine.gemm(trans_a, False, a[:, rows] if trans_a else a[rows], b[:, columns], part)
                    parts[rows, columns] = part
            same_bits(parts, whole, f"M={M} N={N} K={K} {trans_a}, parts at {m} and {n}")


def test_the_built_in_gemm_has_the_same_bits_in_parts():
    """Each element is one chain: it does not depend on which rows are copied, nor on the blocks of k."""
    code = """
import test_kernels
from fastrnn import _engine
for isa in _engine.available_isas():
    _engine.set_isa(isa)
    for dtype in ("float32", "float64"):
        test_kernels.check_gemm_of_parts(dtype)
"""
    processes.output(code, FASTRNN_BLAS="builtin")


def test_gemm_needs_little_of_the_stack():
    """Threads may have a small stack: this one of 192 KiB, of which Python needs a part."""
    code = """
import threading
import test_kernels
from fastrnn import _engine
def compute():
    for isa in _engine.available_isas():
        _engine.set_isa(isa)
        for dtype in ("float32", "float64"):
            test_kernels.check_gemm_of_parts(dtype)
threading.stack_size(192 * 1024)
thread = threading.Thread(target=compute)
thread.start()
thread.join()
print("done")
"""
    assert "done" in processes.output(code, FASTRNN_BLAS="builtin")


def test_gemm_has_the_same_bits_on_any_number_of_threads(isa, dtype):
    rng = np.random.default_rng(3)
    for M, N, K in [(512, 130, 1600), (257, 65, 900), (1024, 256, 64)]:
        a, b = rng.standard_normal((K, M)).astype(dtype), rng.standard_normal((K, N)).astype(dtype)
        results = []
        for n in (1, 2, 3):
            c = np.zeros((M, N), dtype)
            with fastrnn.threads(n):
                _engine.gemm(True, False, a, b, c)
            results.append(c)
        same_bits(results[1], results[0], "2 threads")
        same_bits(results[2], results[0], "3 threads")


# --- sums, gather, scatter ----------------------------------------------------


@pytest.mark.parametrize("kind", FILLS)
@pytest.mark.parametrize("N", SIZES)
def test_column_sum_adds_rows_in_order_and_writes_nothing_else(isa, dtype, N, kind):
    rng = np.random.default_rng(N)
    for M in (0, 1, 2, 7, 33):
        a, out = fill(rng, kind, (M, N), dtype), rng.standard_normal(N).astype(dtype)
        boxes, (ga, gout) = guarded(a, out)
        _engine.column_sum(ga, gout)
        want = out + a.astype("float64").sum(0)
        close(
            gout,
            want,
            (M + 1) * EPS[dtype] * (np.abs(out) + np.abs(a.astype("float64")).sum(0))
            + (M + 1) * float(np.finfo(dtype).tiny),
        )
        assert all(box.intact() for box in boxes)
        same_bits(ga, a, "a was written")


@pytest.mark.parametrize("kind", FILLS)
@pytest.mark.parametrize("n", SIZES)
def test_divide_rows_has_the_bits_of_numpy(dtype, n, kind):
    rng = np.random.default_rng(n)
    a, counts = fill(rng, kind, (5, n), dtype), np.array([1, 3, 2**40, 7, 10], "int64")
    boxes, (ga, gcounts, gout) = guarded(a, counts, np.full((5, n), 5, dtype))
    _engine.divide_rows(ga, gcounts, gout)
    same_bits(gout, a * (1 / counts).astype(dtype)[:, None])
    same_bits(ga, a, "a was written")
    _engine.divide_rows(ga, gcounts, ga)
    same_bits(ga, gout, "in place")
    assert all(box.intact() for box in boxes)


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf, -np.inf, -5e-324])
def test_a_wrong_weight_is_named_wherever_it_is(bad):
    good = np.array([0.0, -0.0, 1.0, 1.7976931348623157e308, 5e-324, 2.0])
    message = f"weights must be finite and not negative, got {re.escape(str(bad))}$"
    forms = lambda w: w, lambda w: w.reshape(2, 3), lambda w: np.repeat(w, 2)[::2], lambda w: w.reshape(3, 2).T
    for form in forms:
        weights = form(good.copy())
        assert _check.weights(weights, weights.shape) is weights
        for place in range(6):
            wrong = good.copy()
            wrong[place] = bad
            with pytest.raises(ValueError, match=message):
                _check.weights(form(wrong), weights.shape)
    _check.weights(np.zeros((0, 3)), (0, 3))
    _check.weights(np.broadcast_to(good, (4, 6)), (4, 6))


@pytest.mark.parametrize("n", [1, 3, 40])
def test_sequences_are_padded_with_zeros(dtype, n):
    rng = np.random.default_rng(n)
    parts = [rng.standard_normal((t, n)).astype(dtype) for t in (4, 1, 6, 2, 6)]
    lengths = np.array(list(map(len, parts)), "int64")
    boxes, (values, first, given) = guarded(np.concatenate(parts), np.cumsum(lengths) - lengths, lengths)
    for rows in ([2, 4], [3], [0, 1, 3, 2, 4], [1, 1], []):
        for chosen in (np.array(rows, "int64"), np.array([(row, 9) for row in rows], "int64").reshape(-1, 2)[:, 0]):
            batch, found = _engine.sequences(values, first, given, chosen)
            assert found.tolist() == lengths[rows].tolist() and batch.shape == (max(found, default=0), len(rows), n)
            for b, row in enumerate(rows):
                same_bits(batch[: found[b], b], parts[row], f"sequence {row}")
                assert not batch[found[b] :, b].any()
    assert all(box.intact() for box in boxes)


@pytest.mark.parametrize("n", SIZES)
def test_gather_and_scatter_add_touch_the_named_rows_only(isa, dtype, n):
    rng = np.random.default_rng(n)
    table, ids = rng.standard_normal((9, n)).astype(dtype), np.array([8, 0, 3, 3, 0, 3, 7], "int64")
    boxes, (gtable, gids, gout) = guarded(table, ids, np.full((7, n), 5, dtype))
    _engine.gather(gtable, gids, gout)
    same_bits(gout, table[ids])
    assert all(box.intact() for box in boxes)

    rows, start = rng.standard_normal((7, n)).astype(dtype), rng.standard_normal((9, n)).astype(dtype)
    boxes, (grows, gids, gout) = guarded(rows, ids, start)
    _engine.scatter_add(grows, gids, gout)
    want = start.copy()
    for m, k in enumerate(ids):
        want[k] += rows[m]
    same_bits(gout, want, "rows added in their order")
    assert all(box.intact() for box in boxes)
    _engine.scatter_add(np.empty((0, n), dtype), np.empty(0, "int64"), gout)
    same_bits(gout, want, "no rows")


@pytest.mark.parametrize("n", SIZES)
def test_bag_adds_weighted_words_and_its_backward_gives_them_back(isa, dtype, n):
    rng = np.random.default_rng(n)
    start, word = (
        np.array([0, 3, 3, 8, 9], "int64"),
        np.array([8, 0, 3, 3, 0, 3, 7, 1, 1], "int64"),
    )  # sentence 1 has no words
    sentence = np.array([2, 0, 1, 2, 3], "int64")
    a, b, ramp, table, out = (rng.standard_normal(shape).astype(dtype) for shape in (9, 9, n, (9, n), (5, n)))
    boxes, arrays = guarded(sentence, start, word, a, b, ramp, table, out)
    _engine.bag(*arrays)
    want, size = out.astype("float64"), np.abs(out).astype("float64")
    weight = a[:, None] + b[:, None].astype("float64") * ramp
    for m, s in enumerate(sentence):
        rows = slice(start[s], start[s + 1])
        want[m] += (weight[rows] * table[word[rows]]).sum(0)
        size[m] += ((np.abs(a[rows, None]) + np.abs(b[rows, None] * ramp)) * np.abs(table[word[rows]])).sum(0)
    close(arrays[-1], want, 10 * EPS[dtype] * size)
    assert all(box.intact() for box in boxes)

    boxes, arrays = guarded(sentence, start, word, a, b, ramp, out, table)
    _engine.bag_backward(*arrays)
    want, size = table.astype("float64"), np.abs(table).astype("float64")
    for m, s in enumerate(sentence):
        for w in range(start[s], start[s + 1]):
            want[word[w]] += weight[w] * out[m]
            size[word[w]] += (np.abs(a[w]) + np.abs(b[w] * ramp)) * np.abs(out[m])
    close(arrays[-1], want, 20 * EPS[dtype] * size)
    assert all(box.intact() for box in boxes)


@pytest.mark.parametrize("T, lengths", [(0, [0, 0]), (3, [0]), (5, [3, 1, 5, 0, 3]), (4, []), (6, [2, 2])])
def test_ragged_rows_find_their_places_and_come_back(T, lengths):
    rng = np.random.default_rng(T)
    lengths, B = np.array(lengths, "int64"), len(lengths)
    longest_first = np.argsort(-lengths, kind="stable")
    t, b = (np.arange(T)[:, None] < lengths[longest_first]).nonzero()  # step by step, sorted rows in each
    want = t * B + longest_first[b]
    arrays = lengths, *(np.full(n, -1, "int64") for n in (B, B, T + 1, T * B, T * B))
    boxes, (given, order, lengths, offset, where, padding) = guarded(*arrays)
    _engine.ragged_places(given, order, lengths, offset, where, padding)
    np.testing.assert_array_equal(order, longest_first)
    np.testing.assert_array_equal(lengths, given[longest_first])
    where, padding = where[: len(want)], padding[: T * B - len(want)]
    np.testing.assert_array_equal(where, want)
    np.testing.assert_array_equal(np.sort(np.concatenate([where, padding])), np.arange(T * B))
    np.testing.assert_array_equal(np.diff(offset), [(lengths > t).sum() for t in range(T)])
    assert offset[0] == 0 and all(box.intact() for box in boxes)

    rows = rng.standard_normal((len(where), 3))
    boxes, (rows, where, padding, out) = guarded(rows, where, padding, np.full((T * B, 3), 5.0))
    _engine.spread(rows, where, padding, out)
    want = np.zeros((T * B, 3))
    want[where] = rows
    same_bits(out, want)
    assert all(box.intact() for box in boxes)


@pytest.mark.parametrize("given", [None, 0, 1])
@pytest.mark.parametrize("n", [0, 1, 2, 7, 100])
def test_distinct_ids_are_sorted_and_lead_back(n, given):
    ids, ends = np.random.default_rng(n).integers(0, 40, n) * 10**9, None
    boxes, (ids, rows, inverse, counts) = guarded(ids, *(np.full(m, -1, "int64") for m in (n, n, 3)))
    if given is not None:
        n, ends = n - given if n else 0, np.array([99, n - given], np.intp)
    _engine.distinct(ids, 40 * 10**9, rows, inverse, counts, ends)
    ids, inverse = ids[:n], inverse[:n]
    assert counts[0] == 0 and counts[1] == counts[2]
    np.testing.assert_array_equal(rows[: counts[2]], np.unique(ids))
    np.testing.assert_array_equal(rows[inverse], ids)
    assert all(box.intact() for box in boxes)


@pytest.mark.parametrize("V", [6, 7, 8])
def test_a_table_with_no_more_rows_than_ids_is_used_as_a_whole(V):
    ids = np.array([3, 0, 5, 5, 0, 3, 3])
    boxes, (ids, rows, inverse, counts) = guarded(ids, *(np.full(m, -1, "int64") for m in (7, 7, 3)))
    _engine.distinct(ids, V, rows, inverse, counts)
    assert counts.tolist() == ([V, 0, V] if V <= 7 else [0, 3, 3])
    np.testing.assert_array_equal(rows[: counts[2]], np.arange(V) if V <= 7 else [0, 3, 5])
    np.testing.assert_array_equal(rows[inverse], ids)
    assert all(box.intact() for box in boxes)


@pytest.mark.parametrize("targets", [[], [-1], [4], [2, -1, 0, -7, 3], [-1, -1], [5, 6]])
def test_valid_targets_and_all_other_places(targets):
    targets, n = np.array(targets, "int64"), len(targets)
    boxes, (given, where, others, valid, count) = guarded(targets, *(np.full(m, 9, "int64") for m in (n, n, n, 1)))
    _engine.valid_targets(given, where, others, valid, count)
    want = np.flatnonzero(targets >= 0)
    assert count[0] == len(want)
    np.testing.assert_array_equal(where[: len(want)], want)
    np.testing.assert_array_equal(others[: n - len(want)], np.flatnonzero(targets < 0))
    np.testing.assert_array_equal(valid, [*targets[want], *[-1] * (n - len(want))])
    assert all(box.intact() for box in boxes)


@pytest.mark.parametrize("offset", [[0], [0, 0], [0, 3], [0, 3, 5, 6, 6]])
def test_the_sorted_row_of_each_packed_row(offset):
    boxes, (offset, out) = guarded(np.array(offset, np.intp), np.full(offset[-1], -1, "int64"))
    _engine.step_rows(offset, out)
    np.testing.assert_array_equal(out, [b for n in np.diff(offset) for b in range(n)])
    assert all(box.intact() for box in boxes)


@pytest.mark.parametrize("n", [0, 1, 9, 1000])
def test_the_mean_of_losses_of_which_a_plan_uses_some(n):
    rng = np.random.default_rng(n)
    boxes, (losses, divisor, mean) = guarded(rng.standard_normal(n), [3.0], [9.0])
    _engine.mean_loss(losses, divisor, mean)
    np.testing.assert_allclose(mean[0], losses.sum() / 3, rtol=1e-12)
    for count in (0, n // 3, n):
        _engine.mean_loss(losses, divisor, mean, np.array([count], np.intp))
        np.testing.assert_allclose(mean[0], losses[:count].sum() / 3, rtol=1e-12)
    assert all(box.intact() for box in boxes)


@pytest.mark.parametrize("rows, counts", [(0, [0, 0]), (1, [1, 0]), (64, [64, 0]), (65, [64, 1]), (128, [64, 64])])
def test_rows_of_each_chunk(rows, counts):
    boxes, (ends, out) = guarded(np.array([3, rows], np.intp), np.full(2, -1, np.intp))
    _engine.chunk_counts(ends, 64, out)
    assert out.tolist() == counts and all(box.intact() for box in boxes)


@pytest.mark.parametrize("n", [0, 1, 7, 64, 129])
def test_tanh_backward(dtype, n):
    rng = np.random.default_rng(n)
    boxes, (y, dy) = guarded(*(rng.uniform(-1, 1, (1, n)).astype(dtype) for _ in range(2)))
    want = dy * (1 - y * y)
    _engine.tanh_backward(y, dy)
    same_bits(dy, want)
    assert all(box.intact() for box in boxes)


def test_in_a_plan_the_last_element_of_ends_is_the_number_of_rows(isa, dtype):
    rng, ends = np.random.default_rng(0), np.array([9, 3], np.intp)
    logits, targets = rng.standard_normal((5, 7)).astype(dtype), np.array([0, -1, 6, 2, 2])
    for out in (np.full(7, 2.0, dtype), np.zeros(7, dtype)):
        want = out.copy()
        _engine.column_sum(logits[:3], want)
        _engine.column_sum(logits, out, ends)
        same_bits(out, want)
    nll, want, rows, want_rows = np.full(5, 8.0), np.full(5, 8.0), np.full_like(logits, 8), np.full_like(logits, 8)
    _engine.softmax_nll(logits[:3], targets[:3], None, want[:3], want_rows[:3])
    _engine.softmax_nll(logits, targets, None, nll, rows, ends)
    same_bits(nll, want)
    same_bits(rows, want_rows)


@pytest.mark.parametrize("rows", [[0], [3], [1, 1], [2, 0, 3, 1], []])
def test_sequences_of_ids_side_by_side(rows):
    sequences = [[4, 5, 6], [], [7], [8, -1, 9, 2]]
    ids, start = np.array(sum(sequences, [])), np.array([0, 3, 3, 4, 8])
    given = np.array(rows, "int64")
    lengths = [len(sequences[row]) for row in rows]
    T = max(lengths, default=0)
    out, found = _engine.padded(ids, start, np.repeat(given, 2)[::2])
    assert found.tolist() == lengths and out.shape == (T, len(rows))
    np.testing.assert_array_equal(out.T, [sequences[row] + [0] * (T - len(sequences[row])) for row in rows] or out.T)
    inputs, targets, found = _engine.forced(ids, start, given, 99)
    assert found.tolist() == lengths
    for b, row in enumerate(rows):
        one, before = sequences[row], [99] + [i if i >= 0 else 99 for i in sequences[row]]
        assert targets[:, b].tolist() == (one + [-1] * T)[:T]
        assert inputs[:, b].tolist() == (before + [0] * T)[:T]


def test_ids_outside_are_an_error():
    ids = np.array([3, 0, 5])
    _engine.check_within(ids, 0, 5)
    for least, most in ((1, 5), (0, 4)):
        with pytest.raises(IndexError, match=f"not from {least} to {most}"):
            _engine.check_within(ids, least, most)


@pytest.mark.parametrize("M, n", [(0, 3), (1, 1), (3, 5), (4, 17), (5, 0)])
def test_rows_of_any_stride_are_copied_and_added(isa, dtype, M, n):
    rng = np.random.default_rng(M)
    boxes, (a, out) = guarded(*(rng.standard_normal((M, n + more)).astype(dtype) for more in (3, 2)))
    before = out.copy()
    _engine.add_rows(a[:, 1 : n + 1], out[:, 2:])
    same_bits(out[:, 2:], before[:, 2:] + a[:, 1 : n + 1])
    _engine.copy_rows(a[:, 3:], out[:, :n])
    same_bits(out[:, :n], a[:, 3:])
    same_bits(out[:, n:2], before[:, n:2])
    assert all(box.intact() for box in boxes)


@pytest.mark.parametrize("kind", FILLS)
def test_sum_of_squares_is_accumulated_in_float64(isa, dtype, kind):
    rng = np.random.default_rng(4)
    for n in [0, *SIZES, 1000, 100_003]:
        box = Guarded(fill(rng, kind, n, dtype))
        squares = box.array.astype("float64") ** 2
        got = _engine.sum_of_squares(box.array)
        assert isinstance(got, float)
        if kind == "nan" and n:
            assert np.isnan(got)
        else:
            assert abs(got - squares.sum()) <= 1e-13 * squares.sum()


# --- softmax and its loss -----------------------------------------------------


def softmax64(logits):
    with np.errstate(invalid="ignore"):
        e = np.exp(logits.astype("float64") - logits.max(-1, keepdims=True).astype("float64"))
        return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("kind", [*FILLS, "far apart"])
@pytest.mark.parametrize("V", SIZES)
def test_softmax_and_its_loss_agree_with_float64_and_write_nothing_else(isa, dtype, V, kind):
    rng = np.random.default_rng(V)
    M = 6
    logits = 3 * fill(rng, "normal" if kind == "far apart" else kind, (M, V), dtype)
    if kind == "far apart":
        logits *= 300
    targets = rng.integers(0, V, M)
    targets[2] = -1
    weights = rng.random(M).astype(dtype)
    p = softmax64(logits)
    onehot = np.zeros((M, V))
    onehot[np.arange(M), targets] = 1
    with np.errstate(invalid="ignore", divide="ignore"):
        top = logits.max(1).astype("float64")
        log_sum = np.log(np.exp(logits.astype("float64") - top[:, None]).sum(1))
        nll = log_sum + top - logits[np.arange(M), targets].astype("float64")

    boxes, (glogits, gout) = guarded(logits, np.full((M, V), 9, dtype))
    _engine.softmax(glogits, gout)
    close(gout, p, 4 * V**0.5 * EPS[dtype], "softmax")
    assert all(box.intact() for box in boxes)
    same_bits(glogits, logits, "logits were written")
    _engine.softmax(glogits, glogits)
    same_bits(glogits, gout, "softmax in place")

    for w in (None, weights):
        scale = np.ones(M) if w is None else w.astype("float64")
        scale[2] = 0
        boxes, (glogits, gtargets, gnll, gd) = guarded(
            logits, targets.astype("int64"), np.full(M, 9.0), np.full((M, V), 9, dtype)
        )
        gw = None if w is None else Guarded(w)
        _engine.softmax_nll(glogits, gtargets, None if gw is None else gw.array, gnll, gd)
        want = np.where(targets < 0, 0, scale * nll)
        close(gnll, want, 8 * EPS[dtype] * (1 + np.abs(want)), "nll")
        want_d = np.where(targets[:, None] < 0, 0, scale[:, None] * (p - onehot))
        close(gd, want_d, 4 * V**0.5 * EPS[dtype], "dlogits")
        assert all(box.intact() for box in boxes) and (gw is None or gw.intact())
        alone = np.empty(M)
        _engine.softmax_nll(glogits, gtargets, None if w is None else w, alone, None)
        same_bits(alone, gnll, "nll without dlogits")
        _engine.softmax_nll(glogits, gtargets, None if w is None else w, alone, glogits)
        same_bits(glogits, gd, "dlogits in the place of logits")
        same_bits(alone, gnll, "nll in place")
        assert boxes[0].intact()


# --- dropout ------------------------------------------------------------------


def test_a_dropout_mask_depends_on_key_row_and_unit_alone(isa, dtype):
    rng = np.random.default_rng(5)
    for n in SIZES:
        row_id = (np.arange(7, dtype="uint64") << np.uint64(32)) | np.uint64(3)
        x = 1 + rng.random((7, n)).astype(dtype)
        box = Guarded(x)
        _engine.dropout(box.array, row_id, 12345678901234567890, 0.25)
        assert box.intact()
        kept = box.array != 0
        same_bits(box.array[kept], (x * np.dtype(dtype).type(1 / 0.75))[kept], "what is kept is scaled by 1/(1-p)")
        order = rng.permutation(7)[:4]
        part = x[order]
        _engine.dropout(part, row_id[order], 12345678901234567890, 0.25)
        same_bits(part, box.array[order], "other rows, another order")


def test_dropout_masks_are_the_same_on_every_instruction_set_and_dtype(isa):
    x = np.ones((64, 33), "float32")
    _engine.dropout(x, np.arange(64, dtype="uint64"), 99, 0.5)
    kept = _engine.isa()
    _engine.set_isa(_engine.available_isas()[-1])
    other = np.ones((64, 33), "float64")
    _engine.dropout(other, np.arange(64, dtype="uint64"), 99, 0.5)
    _engine.set_isa(kept)
    np.testing.assert_array_equal(x != 0, other != 0)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_masks_look_random(p):
    """Check mean and correlations of neighbouring units, rows, steps and keys: within 5 standard deviations."""
    n, rows = 256, 400

    def mask(key, t):
        x = np.ones((rows, n), "float32")
        _engine.dropout(x, (np.arange(rows, dtype="uint64") << np.uint64(32)) | np.uint64(t), key, p)
        return (x != 0) - (1 - p)

    a = mask(1, 0)
    bound = 5 * p * (1 - p) / np.sqrt(a.size)
    assert abs(a.mean()) < 5 * np.sqrt(p * (1 - p) / a.size)
    for name, b in {
        "unit": a[:, 1:] * a[:, :-1],
        "row": a[1:] * a[:-1],
        "step": a * mask(1, 1),
        "key": a * mask(2, 0),
    }.items():
        assert abs(b.mean()) < bound, name
    assert abs(a.mean(0)).max() < 5.5 * np.sqrt(p * (1 - p) / rows), "one unit"
    assert abs(a.mean(1)).max() < 5.5 * np.sqrt(p * (1 - p) / n), "one row"


def test_dropout_of_nothing_keeps_the_bits(isa, dtype):
    x = np.random.default_rng(6).standard_normal((5, 9)).astype(dtype)
    y = x.copy()
    _engine.dropout(y, np.arange(5, dtype="uint64"), 1, 0.0)
    same_bits(y, x)


# --- optimisers ---------------------------------------------------------------


def optimiser_cases():
    """name: (number of moments, call on arrays of the dtype, the same in float64)"""

    def sgd(momentum, nesterov):
        def want(p, g, v):
            g = g + 0.02 * p
            if v is None:
                return p - 0.1 * g, None
            v = momentum * v + g
            return p - 0.1 * (g + momentum * v if nesterov else v), v

        return want

    def rmsprop(p, g, s):
        g = g + 0.02 * p
        s = 0.9 * s + 0.1 * g**2
        return p - 0.1 * g / (np.sqrt(s) + 1e-6), s

    def adagrad(p, g, s):
        g = g + 0.02 * p
        s = s + g**2
        return p - 0.1 * g / (np.sqrt(s) + 1e-6), s

    def adam(decoupled):
        def want(p, g, m, v):
            if decoupled:
                p = p * (1 - 0.1 * 0.02)
            else:
                g = g + 0.02 * p
            m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g**2
            return p - 0.1 * (m / (1 - 0.9**3)) / (np.sqrt(v / (1 - 0.99**3)) + 1e-6), m, v

        return want

    e, common = _engine, dict(lr=0.1, weight_decay=0.02, scale=0.5)
    moments = dict(beta1=0.9, beta2=0.99, eps=1e-6, step=3, **common)
    return {
        "sgd": (
            0,
            lambda p, g: e.sgd(p, g, None, momentum=0.0, nesterov=False, **common),
            lambda p, g: sgd(0, False)(p, g, None)[:1],
        ),
        "sgd, momentum": (1, lambda p, g, v: e.sgd(p, g, v, momentum=0.9, nesterov=False, **common), sgd(0.9, False)),
        "sgd, nesterov": (1, lambda p, g, v: e.sgd(p, g, v, momentum=0.9, nesterov=True, **common), sgd(0.9, True)),
        "rmsprop": (1, lambda p, g, s: e.rmsprop(p, g, s, alpha=0.9, eps=1e-6, **common), rmsprop),
        "adagrad": (1, lambda p, g, s: e.adagrad(p, g, s, eps=1e-6, **common), adagrad),
        "adam": (2, lambda p, g, m, v: e.adam(p, g, m, v, decoupled=False, **moments), adam(False)),
        "adamw": (2, lambda p, g, m, v: e.adam(p, g, m, v, decoupled=True, **moments), adam(True)),
    }


@pytest.mark.parametrize("name", optimiser_cases())
def test_optimisers_agree_with_float64_and_write_parameters_and_moments_only(isa, dtype, name):
    moments, update, truth = optimiser_cases()[name]
    rng = np.random.default_rng(7)
    for n in [0, *SIZES, 1001]:
        p, g = rng.standard_normal(n).astype(dtype), rng.standard_normal(n).astype(dtype)
        m = [rng.random(n).astype(dtype) + np.dtype(dtype).type(0.1) for _ in range(moments)]
        boxes, arrays = guarded(p, g, *m)
        update(*arrays)
        want = truth(p.astype("float64"), 0.5 * g.astype("float64"), *(a.astype("float64") for a in m))
        for got, w in zip([arrays[0], *arrays[2:]], want, strict=True):
            close(got, w, 16 * EPS[dtype] * (1 + np.abs(w)), name)
        assert all(box.intact() for box in boxes)
        same_bits(arrays[1], g, "the gradient was written")


def test_nan_in_a_gradient_reaches_its_parameter_and_no_other(isa, dtype):
    for name, (moments, update, _) in optimiser_cases().items():
        p, g = np.ones(37, dtype), np.ones(37, dtype)
        g[20] = np.nan
        update(p, g, *(np.ones(37, dtype) for _ in range(moments)))
        np.testing.assert_array_equal(np.isnan(p), np.arange(37) == 20, err_msg=name)


def test_clip_value_cuts_both_ends_and_lets_nan_through(isa, dtype):
    rng = np.random.default_rng(8)
    for n in SIZES:
        g = fill(rng, "nan", n, dtype) * 3
        box = Guarded(g)
        _engine.clip_value(box.array, 1.5)
        np.testing.assert_array_equal(box.array, np.clip(g, -1.5, 1.5))
        assert box.intact()
    g = np.array([np.inf, -np.inf, np.nan, 1.5, -1.5, -0.0], dtype)
    _engine.clip_value(g, 1.5)
    np.testing.assert_array_equal(g, [1.5, -1.5, np.nan, 1.5, -1.5, -0.0])


# --- tanh and sigmoid, through a network that applies nothing else ------------


def activate(cell, x):
    """Return a network with weight 1 on the input and 0 on the state: y = activation(x), one step."""
    H = 16
    params = {"weight_ih_l0": np.eye(H), "weight_hh_l0": np.zeros((H, H))}
    net = make(cell, H, H, params=params, bias=False, dtype=x.dtype)
    padded = np.resize(x, -(-x.size // H) * H)
    return net(padded.reshape(1, -1, H))[0].reshape(-1)[: x.size]


def interesting(dtype):
    """Return numbers that are dense around 0 and in the range of large curvature, and cover every exponent."""
    rng = np.random.default_rng(9)
    exponents = np.finfo(dtype).minexp + 1, np.finfo(dtype).maxexp - 1
    parts = [
        np.linspace(-12, 12, 300_001),
        rng.uniform(-1, 1, 100_000),
        rng.uniform(-100, 100, 100_000),
        rng.uniform(1, 2, 200_000) * 2.0 ** rng.integers(*exponents, 200_000) * rng.choice([-1, 1], 200_000),
        np.ldexp(1.0, np.arange(*exponents)),
        -np.ldexp(1.0, np.arange(*exponents)),
        [0.0, -0.0],
    ]
    return np.concatenate(parts).astype(dtype)


def test_tanh_of_float32_is_within_4_ulp(isa):
    x = interesting("float32")
    got = activate("rnn_tanh", x)
    want = np.tanh(x.astype("float64"))
    ulp = np.spacing(np.abs(want).astype("float32")).astype("float64")
    errors = np.abs(got - want) / ulp
    assert errors.max() <= 4, f"{errors.max()} ulp at {x[errors.argmax()]!r}"
    assert (np.abs(got) <= 1).all()


def test_sigmoid_of_float32_is_within_1e_7(isa):
    """The error is absolute: far below 0 a gate is 0, whatever its exponent."""
    x = interesting("float32")
    got = activate("rnn_sigmoid", x)
    with np.errstate(over="ignore"):
        want = 1 / (1 + np.exp(-x.astype("float64")))
    errors = np.abs(got - want)
    assert errors.max() <= 1e-7, f"{errors.max()} at {x[errors.argmax()]!r}"
    assert (got >= 0).all() and (got <= 1).all()


@pytest.mark.parametrize("cell", ["rnn_tanh", "rnn_sigmoid"])
def test_tanh_and_sigmoid_of_float64_are_within_1e_15(isa, cell):
    x = interesting("float64")
    got = activate(cell, x)
    wide = x.astype(np.longdouble)
    with np.errstate(over="ignore"):
        want = np.tanh(wide) if cell == "rnn_tanh" else 1 / (1 + np.exp(-wide))
    errors = np.abs(got - want)
    assert errors.max() <= 1e-15, f"{errors.max()} at {x[errors.argmax()]!r}"
    if cell == "rnn_tanh":
        ulp = np.spacing(np.abs(want).astype("float64"))
        assert (errors / ulp).max() <= 4, f"{(errors / ulp).max()} ulp at {x[(errors / ulp).argmax()]!r}"


@pytest.mark.parametrize("least, most", [(-87, 88), (-708, 709)])
def test_exponential_is_within_2_ulp(isa, least, most):
    """Down to the smallest result, where intermediate values are denormal, and flushed to 0."""
    kind = "float32" if most == 88 else "float64"
    x = np.linspace(least, most, 50_001).astype(kind)
    net = fastrnn.RNN(1, 1, nonlinearity="exponential", dtype=kind)
    with net.updating() as flat:
        flat[:] = [1, 0, 0, 0]
    got, want = net(x[None, :, None])[0].ravel(), np.exp(x.astype(np.longdouble))
    errors = np.abs(got - want) / np.spacing(want.astype(kind))
    assert errors.max() <= 2, f"{errors.max()} ulp at {x[errors.argmax()]!r}"


def test_activations_at_infinity_and_nan(isa, dtype):
    x = np.array([np.inf, -np.inf, np.nan, 1e30, -1e30, 0.0], dtype)
    same = np.testing.assert_array_equal
    # each in its own network: 0 * inf from the zeros of the identity is NaN
    same([one(cell="rnn_tanh", value=v) for v in x], [1, -1, np.nan, 1, -1, 0])
    sigmoid = np.array([one(cell="rnn_sigmoid", value=v) for v in x])
    same(sigmoid[[0, 2, 3, 5]], [1, np.nan, 1, 0.5])
    assert 0 <= sigmoid[1] <= 1e-35 and 0 <= sigmoid[4] <= 1e-35
    same([one(cell="rnn_relu", value=v) for v in x], [np.inf, 0, np.nan, x[3], 0, 0])


@pytest.mark.parametrize("cell", ["rnn_tanh", "rnn_sigmoid"])
def test_float32_activations_of_each_exponent(isa, cell):
    """Check 4096 mantissas of every exponent, with both signs: limits, range and symmetry of both functions."""
    exponents, mantissas = np.arange(1, 255, dtype="uint32") << 23, np.arange(4096, dtype="uint32") * 2048 + 1031
    x = (exponents[:, None] | mantissas).view("float32").ravel()
    up, down, wide = activate(cell, x), activate(cell, -x), x.astype("float64")
    if cell == "rnn_tanh":
        assert (np.abs(up - np.tanh(wide)) / np.spacing(np.tanh(wide).astype("float32"))).max() <= 4
        np.testing.assert_array_equal(up.view("uint32") ^ np.uint32(2**31), down.view("uint32"))
        assert (up[wide > 9.1] == 1).all()
    else:
        small = np.exp(-wide) / (1 + np.exp(-wide))
        assert np.abs(up - (1 - small)).max() <= 1e-7 and np.abs(down - small).max() <= 1e-7
        np.testing.assert_array_equal(up, 1 - down)
        assert (down[wide > 17] == 0).all()
    assert 0 <= min(up.min(), np.abs(down).min()) and max(up.max(), np.abs(down).max()) <= 1


def test_tanh_of_tiny_x_is_x(isa):
    """Accurate to 4 ulp down to the smallest normal number, though intermediate denormals are flushed to 0."""
    tiny = (
        (np.arange(2**23, 2**23 + 4096, dtype="uint32")[:, None] + (np.arange(0, 100, 10, dtype="uint32") << 23))
        .view("float32")
        .ravel()
    )
    assert (np.abs(activate("rnn_tanh", tiny) - tiny) <= 4 * np.spacing(tiny)).all()


def test_the_table_of_tanh_is_what_its_program_fits():
    source = Path(__file__).parents[1] / "src" / "vec.h"
    if not source.exists():
        pytest.skip("the source files are not available")
    text = source.read_text()
    table = [
        np.array(re.search(rf"{name}\[\] = {{(.*?)}}", text)[1].replace("f", "").split(","), "float32")
        for name in ("TANH_A", "TANH_B")
    ]
    for got, want in zip(table, fit_activations.fit(), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4)  # another LAPACK may round a step of the fit differently
    assert np.float32(re.search(r"TANH_LIMIT (\S+)f", text)[1]) == np.float32(fit_activations.LIMIT**2)
    assert fit_activations.relative_error(*(t.astype("float64") for t in table)).max() <= 0.15


def one(cell, value):
    params = {"weight_ih_l0": np.ones((1, 1)), "weight_hh_l0": np.zeros((1, 1))}
    net = make(cell, 1, 1, params=params, bias=False, dtype=value.dtype)
    return net(np.full((1, 1, 1), value))[0][0, 0, 0]


@pytest.mark.long
def test_tanh_of_every_sixteenth_float32_is_within_4_ulp(isa):
    """Check 2**28 of the 2**32 numbers; the offset changes with the block."""
    for block in range(256):
        bits = (np.arange(2**20, dtype="uint64") * 16 + block * 2**24 + block % 16).astype("uint32")
        x = bits.view("float32")
        x = x[np.isfinite(x) & (np.abs(x) >= np.finfo("float32").tiny)]
        if not x.size:
            continue
        got, want = activate("rnn_tanh", x), np.tanh(x.astype("float64"))
        errors = np.abs(got - want) / np.spacing(np.abs(want).astype("float32"))
        assert errors.max() <= 4, f"{errors.max()} ulp at {x[errors.argmax()]!r}"


# --- the step kernels, through the layers -------------------------------------


@pytest.mark.parametrize("cell", ["rnn_tanh", "rnn_relu", "rnn_sigmoid", "gru", "gru_before", "lstm"])
def test_every_instruction_set_agrees_with_the_plainest_one(cell, dtype):
    """Equal to a few eps, not bit for bit: they round sums alike, but only some have fused multiply-add."""
    isas = _engine.available_isas()
    kept = _engine.isa()
    rng = np.random.default_rng(10)
    for H in SIZES:
        results = []
        x, dy = rng.standard_normal((4, 5, 7)).astype(dtype), rng.standard_normal((4, 5, H)).astype(dtype)
        params = random_params(rng, cell, 7, H, dtype=dtype)
        for isa in isas:
            _engine.set_isa(isa)
            (y, _), backward = Case(cell, dtype, {}, params, x, None).net().vjp(x)
            g = backward(dy)
            results.append((y, g.x, g.flat))
        _engine.set_isa(kept)
        for isa, result in zip(isas, results, strict=True):
            for got, want in zip(result, results[-1], strict=True):
                scale = np.abs(want).max(initial=1)
                np.testing.assert_allclose(
                    got, want, rtol=0, atol=200 * EPS[dtype] * scale, err_msg=f"{isa} against {isas[-1]}, H={H}"
                )
