/* How the cells differ: the only table of it. Python reads it as _engine.CELLS. */
#include "kernels.h"

#define VANILLA .gates = 1, .blocks = 1, .rh_block = -1, .phases = 1, .least_vectors = RNN_PANEL
#define GRU                                                                                                           \
    .gates = 3, .blocks = 4, .x_block = {1, 2, 0}, .h_block = {1, 2, 3}, .interleaved = 3, .rh_block = -1, .phases = 1
#define GRU_BEFORE                                                                                                    \
    .gates = 3, .blocks = 4, .x_block = {1, 2, 0}, .h_block = {1, 2, 0}, .interleaved = 2, .rh_block = 3,             \
    .phases = 2, .least_vectors = RNN_PANEL
#define LSTM                                                                                                          \
    .gates = 4, .blocks = 4, .x_block = {0, 1, 2, 3}, .h_block = {0, 1, 2, 3}, .interleaved = 4, .rh_block = -1,      \
    .has_c = 1, .phases = 1

/* least_vectors: 1 where one vector of units has enough chains of additions, one for each gate; else a panel */
const rnn_cell_traits rnn_cells[RNN_CELLS] = {
    [RNN_TANH] = {.name = "rnn_tanh", VANILLA},
    [RNN_RELU] = {.name = "rnn_relu", VANILLA},
    [RNN_SIGMOID] = {.name = "rnn_sigmoid", VANILLA},
    [RNN_GRU] = {.name = "gru", GRU, .least_vectors = 1},
    [RNN_GRU_BEFORE] = {.name = "gru_before", GRU_BEFORE},
    [RNN_LSTM] = {.name = "lstm", LSTM, .least_vectors = 1},
    [RNN_OPTIONS] = {.name = "rnn_options", VANILLA},
    [RNN_GRU_OPTIONS] = {.name = "gru_options", GRU, .least_vectors = RNN_PANEL},
    [RNN_GRU_BEFORE_OPTIONS] = {.name = "gru_before_options", GRU_BEFORE},
    [RNN_LSTM_OPTIONS] = {.name = "lstm_options", LSTM, .least_vectors = RNN_PANEL},
    [RNN_LSTM_COUPLED] = {.name = "lstm_coupled", .gates = 3, .blocks = 3, .x_block = {0, 1, 2}, .h_block = {0, 1, 2},
                          .interleaved = 3, .rh_block = -1, .has_c = 1, .phases = 1, .least_vectors = RNN_PANEL},
};

const char *const rnn_function_names[FUNCTIONS] = {
    [F_TANH] = "tanh", [F_SIGMOID] = "sigmoid", [F_RELU] = "relu", [F_AFFINE] = "affine",
    [F_LEAKY_RELU] = "leaky_relu", [F_THRESHOLDED_RELU] = "thresholded_relu", [F_SCALED_TANH] = "scaled_tanh",
    [F_HARD_SIGMOID] = "hard_sigmoid", [F_ELU] = "elu", [F_SOFTSIGN] = "softsign", [F_SOFTPLUS] = "softplus",
    [F_SELU] = "selu", [F_SILU] = "silu", [F_EXPONENTIAL] = "exponential",
};
