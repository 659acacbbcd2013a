/* One recurrent step of every cell, forward and backward: on one thread, and with its units divided among synchronised
 * parts. */
#ifndef NATIVE_STEPS_H
#define NATIVE_STEPS_H

#include "cases.h"

typedef struct {
    int cell, gates, blocks;
    rnn_options options;
    rnn_step forward;
    rnn_step_backward backward;
} step_case;

static inline ptrdiff_t padded(ptrdiff_t n) { return (n + lanes - 1) / lanes * lanes; }

static inline rnn_function some_function(void)
{
    return (rnn_function){(int)below(F_EXPONENTIAL + 1), 0.5 + 0.2 * number(), 0.3 * number()};
}

/* gates, blocks and options of a cell; docs/design.md and src/kernels_options.h describe the blocks */
static inline void choose_cell(step_case *c, int cell)
{
    c->cell = cell;
    c->gates = rnn_cells[cell].gates;
    c->blocks = rnn_cells[cell].blocks;
    if (cell < RNN_OPTIONS)
        return;
    c->options = (rnn_options){.gate = some_function(), .candidate = some_function(), .output = some_function(),
                               .clip = below(2) ? (double)INFINITY : 0.7};
    if (cell == RNN_LSTM_OPTIONS || cell == RNN_LSTM_COUPLED) {
        const int peephole = (int)below(2);
        c->options.projected = (int)below(2);
        c->blocks = c->gates + (c->gates - 1) * peephole + c->options.projected;
        c->options.peephole = peephole ? "" : NULL;       /* allocated with the sizes */
    }
    c->options.blocks = c->blocks;
}

/* Sizes and memory of a step; the same state of the random numbers gives the same step. */
static inline void make_step(step_case *c, int cell)
{
    choose_cell(c, cell);
    const ptrdiff_t H = size_at(lanes, 1, 5 * lanes), Hp = padded(H), rows = 1 + below(14), X = c->blocks;
    const ptrdiff_t P = c->options.projected ? 1 + below(H) : H, Pp = padded(P), go_on = below(rows + 2) - 1;
    const ptrdiff_t continued = go_on > 0 ? go_on : 0, own_bias = below(2), y_stride = P + below(3);
    const int two = rnn_cells[cell].phases == 2;
    if (c->options.peephole)
        c->options.peephole = filled((c->gates - 1) * Hp);
    rnn_step *s = &c->forward;
    *s = (rnn_step){.rows = rows, .H = H, .Hp = Hp, .P = P, .Pp = Pp,
                    .options = cell < RNN_OPTIONS ? NULL : &c->options,
                    .bias_stride = own_bias ? X * Hp : 0, .go_on = go_on, .y_stride = y_stride,
                    .keep = (int)below(2), .flip = (int)below(2)};
    s->w = scaled((two ? 2 : c->gates) * Hp * P, 1.0 / (double)P);
    s->w2 = two ? scaled(Hp * H, 1.0 / (double)H) : c->options.projected ? scaled(Pp * H, 1.0 / (double)H) : NULL;
    s->bias = filled((own_bias ? rows : 1) * X * Hp);
    s->gates = filled(rows * X * Hp);
    s->h_prev = filled(rows * Pp);
    s->h_next = unwritten(continued * Pp);
    s->h_end = (char *)unwritten((rows - continued) * Pp) - continued * Pp * item;
    if (rnn_cells[cell].has_c) {
        s->c_prev = filled(rows * Hp);
        s->c_next = unwritten(continued * Hp);
        s->c_end = (char *)unwritten((rows - continued) * Hp) - continued * Hp * item;
    }
    s->y = unwritten(extent(rows, P, y_stride));
    s->u1 = Hp;
    s->p1 = Pp;
    s->parts = 1;
}

static inline void make_backward(step_case *c, int cell)
{
    make_step(c, cell);
    const rnn_step *f = &c->forward;
    const ptrdiff_t rows = f->rows, Hp = f->Hp, Pp = f->Pp;
    const int two = rnn_cells[cell].phases == 2;
    c->backward = (rnn_step_backward){
        .rows = rows, .H = f->H, .Hp = Hp, .P = f->P, .Pp = Pp, .options = f->options, .dy_stride = f->y_stride,
        .gates = f->gates, .h_prev = f->h_prev, .c_prev = f->c_prev, .flip = f->flip, .u1 = Hp, .p1 = Pp, .parts = 1};
    rnn_step_backward *s = &c->backward;
    s->w = scaled(Pp * (two ? 2 : c->gates) * Hp, 1.0 / (double)Hp);
    s->w2 = two ? scaled(Hp * Hp, 1.0 / (double)Hp) : c->options.projected ? scaled(Hp * f->P, 1.0 / (double)Hp) : NULL;
    s->dy = below(4) ? filled(extent(rows, f->P, f->y_stride)) : NULL;
    s->dgates = filled(rows * c->blocks * Hp);   /* the GRU does not write a gap: 0 there, or values of the last step */
    s->dh = filled(rows * Pp);
    s->dc = f->c_prev ? filled(rows * Hp) : NULL;
    s->dphase = two || c->options.projected ? unwritten(rows * Hp) : NULL;
}

/* ---- units divided as by `sweep` of src/recurrence.pxd ----------------------------------------------------------- */

static inline ptrdiff_t share(ptrdiff_t columns, int part, int parts) { return columns / lanes * part / parts * lanes; }

static void forward_part(void *arg, int part, int parts)
{
    const step_case *c = arg;
    rnn_step s = c->forward;
    s.u0 = share(s.Hp, part, parts), s.u1 = share(s.Hp, part + 1, parts);
    s.p0 = share(s.Pp, part, parts), s.p1 = share(s.Pp, part + 1, parts);
    s.part = part, s.parts = parts;
    table->forward[c->cell](&s);
}

static void backward_part(void *arg, int part, int parts)
{
    const step_case *c = arg;
    rnn_step_backward s = c->backward;
    s.u0 = share(s.Hp, part, parts), s.u1 = share(s.Hp, part + 1, parts);
    s.p0 = share(s.Pp, part, parts), s.p1 = share(s.Pp, part + 1, parts);
    s.part = part, s.parts = parts;
    table->backward[c->cell](&s);
}

/* The bits of the results of a step computed by some number of parts. */
static inline uint64_t run_forward(int cell, int parts)
{
    step_case c = {0};
    make_step(&c, cell);
    rnn_team_run(forward_part, &c, parts, 1);
    const rnn_step *s = &c.forward;
    const ptrdiff_t on = s->go_on > 0 ? s->go_on : 0, end = s->rows - on;
    check_rows("y", s->y, s->rows, s->P, s->y_stride);
    uint64_t h = hash(0, s->y, extent(s->rows, s->P, s->y_stride));
    h = hash(h, s->h_next, on * s->Pp);
    h = hash(h, (const char *)s->h_end + on * s->Pp * item, end * s->Pp);
    check("h_next", s->h_next, on * s->Pp);
    check("h_end", (const char *)s->h_end + on * s->Pp * item, end * s->Pp);
    if (s->c_prev) {
        check("c_next", s->c_next, on * s->Hp);
        check("c_end", (const char *)s->c_end + on * s->Hp * item, end * s->Hp);
        h = hash(h, s->c_next, on * s->Hp);
    }
    check("gates", s->gates, s->rows * c.blocks * s->Hp);
    h = hash(h, s->gates, s->rows * c.blocks * s->Hp);
    free_buffers();
    return h;
}

static inline uint64_t run_backward(int cell, int parts)
{
    step_case c = {0};
    make_backward(&c, cell);
    rnn_team_run(backward_part, &c, parts, 1);
    const rnn_step_backward *s = &c.backward;
    check("dgates", s->dgates, s->rows * c.blocks * s->Hp);
    check("dh", s->dh, s->rows * s->Pp);
    uint64_t h = hash(hash(0, s->dgates, s->rows * c.blocks * s->Hp), s->dh, s->rows * s->Pp);
    if (s->dc) {
        check("dc", s->dc, s->rows * s->Hp);
        h = hash(h, s->dc, s->rows * s->Hp);
    }
    free_buffers();
    return h;
}

/* Compare a step of each cell on one thread with the same step divided: the bits are equal. */
static inline void check_steps(int backward)
{
    uint64_t (*run)(int, int) = backward ? run_backward : run_forward;
    for (int cell = 0; cell < RNN_CELLS; cell++) {
        const int parts = 2 + (int)below(2);
        const uint64_t seed = random_state, alone = run(cell, 1);
        random_state = seed;
        if (run(cell, parts) != alone)
            fail("other bits where the units are divided among parts");
    }
}

#endif
