/* Several steps of a single row, one after the other and in one call: the bits are equal. */
#ifndef NATIVE_ROW_STEPS_H
#define NATIVE_ROW_STEPS_H

#include "steps.h"

typedef struct {
    int cell, tape, way;         /* way: 1, or -1 from the last step to the first */
    ptrdiff_t T, H, Hp, X, y_stride;
    char *gates, *h, *c, *y;     /* tape: h and c of T+1 steps, in the order of computation; else of one */
    const void *w, *bias;
} row_case;

static inline row_case make_row(int cell)
{
    row_case r = {.cell = cell, .tape = (int)below(2), .way = below(2) ? 1 : -1, .T = 1 + below(6)};
    r.H = size_at(lanes, 1, 13 * lanes);
    r.Hp = padded(r.H);
    r.X = rnn_cells[cell].blocks;
    r.y_stride = r.H + below(3);
    r.w = scaled(rnn_cells[cell].gates * r.Hp * r.H, 1.0 / (double)r.H);
    r.bias = filled(r.X * r.Hp);
    r.gates = filled(r.T * r.X * r.Hp);
    r.h = filled((r.tape ? r.T + 1 : 1) * r.Hp);
    r.c = rnn_cells[cell].has_c ? filled((r.tape ? r.T + 1 : 1) * r.Hp) : NULL;
    r.y = unwritten(extent(r.T, r.H, r.y_stride));
    return r;
}

/* Place i of `count`, in the order of computation. */
static inline ptrdiff_t place(const row_case *r, ptrdiff_t i, ptrdiff_t count)
{
    return r->way > 0 ? i : count - 1 - i;
}

static inline rnn_step row_step(const row_case *r, ptrdiff_t i)
{
    const ptrdiff_t at = r->tape ? place(r, i, r->T + 1) : 0;
    rnn_step s = {.rows = 1, .H = r->H, .Hp = r->Hp, .P = r->H, .Pp = r->Hp, .w = r->w, .bias = r->bias, .go_on = 1,
                  .y_stride = r->y_stride, .keep = r->tape, .u1 = r->Hp, .p1 = r->Hp, .parts = 1};
    s.gates = r->gates + place(r, i, r->T) * r->X * r->Hp * item;
    s.y = r->y + place(r, i, r->T) * r->y_stride * item;
    s.h_prev = r->h + at * r->Hp * item;
    s.c_prev = r->c ? r->c + at * r->Hp * item : NULL;
    return s;
}

static inline uint64_t row_bits(const row_case *r)
{
    const ptrdiff_t states = (r->tape ? r->T + 1 : 1) * r->Hp;
    check_rows("y", r->y, r->T, r->H, r->y_stride);
    uint64_t h = hash(hash(0, r->y, extent(r->T, r->H, r->y_stride)), r->h, states);
    if (r->tape)
        h = hash(h, r->gates, r->T * r->X * r->Hp);
    return r->c ? hash(h, r->c, states) : h;
}

static inline uint64_t rows_one_by_one(int cell)
{
    const row_case r = make_row(cell);
    void *h = unwritten(r.Hp), *c = unwritten(r.Hp);
    for (ptrdiff_t i = 0; i < r.T; i++) {
        rnn_step s = row_step(&r, i);
        const ptrdiff_t to = r.tape ? place(&r, i + 1, r.T + 1) * r.Hp * item : 0;
        s.h_next = h;
        s.c_next = c;
        table->forward[cell](&s);
        memcpy(r.h + to, h, (size_t)(r.Hp * item));
        if (r.c)
            memcpy(r.c + to, c, (size_t)(r.Hp * item));
    }
    const uint64_t bits = row_bits(&r);
    free_buffers();
    return bits;
}

/* 0: there is no kernel for this size */
static inline uint64_t rows_in_one_call(int cell)
{
    const row_case r = make_row(cell);
    rnn_row_steps s = {.step = row_step(&r, 0), .steps = r.T, .gates_stride = r.way * r.X * r.Hp,
                       .y_stride = r.way * r.y_stride};
    const ptrdiff_t last = r.tape ? place(&r, r.T, r.T + 1) * r.Hp * item : 0;
    s.h_stride = r.tape ? r.way * r.Hp : 0;
    s.c_stride = r.c ? s.h_stride : 0;
    s.h_last = r.h + last;
    s.c_last = r.c ? r.c + last : NULL;
    const uint64_t bits = table->row_steps[cell](&s) ? row_bits(&r) : 0;
    free_buffers();
    return bits;
}

/* The backward pass of the steps of a tape. */
static inline uint64_t rows_backward(int cell, int in_one_call)
{
    row_case r = make_row(cell);
    const ptrdiff_t Hp = r.Hp, stride = r.X * Hp;
    const void *w = scaled(Hp * rnn_cells[cell].gates * Hp, 1.0 / (double)Hp);
    const char *dy = below(3) ? filled(extent(r.T, r.H, r.y_stride)) : NULL;
    char *dgates = filled(r.T * stride), *dh = filled(Hp), *dc = r.c ? filled(Hp) : NULL;
    rnn_row_steps_backward s = {.steps = r.T, .gates_stride = -r.way * stride};
    s.h_stride = r.tape ? -r.way * Hp : 0;
    s.c_stride = r.c ? s.h_stride : 0;
    s.dy_stride = dy ? -r.way * r.y_stride : 0;
    for (ptrdiff_t i = r.T - 1; i >= 0; i--) {
        const rnn_step f = row_step(&r, i);
        const ptrdiff_t at = place(&r, i, r.T);
        const rnn_step_backward step = {
            .rows = 1, .H = r.H, .Hp = Hp, .P = r.H, .Pp = Hp, .w = w, .dy = dy ? dy + at * r.y_stride * item : NULL,
            .dy_stride = r.y_stride, .gates = f.gates, .h_prev = f.h_prev, .c_prev = f.c_prev,
            .dgates = dgates + at * stride * item, .dh = dh, .dc = dc, .u1 = Hp, .p1 = Hp, .parts = 1};
        if (!in_one_call) {
            table->backward[cell](&step);
        } else {
            s.step = step;
            in_one_call = table->row_steps_backward[cell](&s) ? 1 : -1;
            break;
        }
    }
    uint64_t bits = hash(hash(0, dgates, r.T * stride), dh, Hp);
    if (dc)
        bits = hash(bits, dc, Hp);
    free_buffers();
    return in_one_call < 0 ? 0 : bits;
}

static inline void check_row_steps(void)
{
    for (int cell = 0; cell < RNN_CELLS; cell++) {
        if (!table->row_steps[cell])
            continue;
        const uint64_t seed = random_state, forward = rows_one_by_one(cell);
        random_state = seed;
        const uint64_t forward_once = rows_in_one_call(cell);
        random_state = seed;
        const uint64_t backward = rows_backward(cell, 0);
        random_state = seed;
        const uint64_t backward_once = rows_backward(cell, 1);
        if (forward_once && forward_once != forward)
            fail("other bits where the steps of a row are computed in one call");
        if (backward_once && backward_once != backward)
            fail("other bits where the backward steps of a row are computed in one call");
    }
}

#endif
