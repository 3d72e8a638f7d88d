// Several operations on tokens in one pass: a chunk stays in planes from one to the next, near the processor.

#pragma once

#include "ragged_activations.h"
#include "ragged_planes.h"

enum Kind : int64_t { LINEAR, LAYER_NORM, RMS_NORM, ADD, MULTIPLY };

// What `chains.py` fills in; fields in the same order.
struct Operation {
    int64_t kind, activation;
    double eps;
    int64_t in, out;  // features
    const Layer *layer;  // LINEAR's
    const float *weight, *bias;  // of a linear layer or a norm, or null
    const float *other;  // ADD's and MULTIPLY's second operand, [tokens][in]
};

// What a linear operation needs besides, whatever the chunk.
struct Plan {
    std::vector<int64_t> offset, to;
    std::vector<float> shift;

    Plan() = default;
    Plan(const Layer &l, int64_t width, const float *bias) : offset(offsets(l, width)), to(l.out), shift(l.out) {
        for (int64_t row = 0; row < l.out; row++) {
            to[row] = l.perm[row] * l.pixels() * width;
            if (bias) shift[row] = bias[l.perm[row]];
        }
    }
};

static void combine(const Operation &operation, const float *a, const float *b, int64_t size, float *to) {
    if (operation.kind == ADD)
        for (int64_t i = 0; i < size; i += lanes) vector(to + i) = vector(a + i) + vector(b + i);
    else
        for (int64_t i = 0; i < size; i += lanes) vector(to + i) = vector(a + i) * vector(b + i);
}
