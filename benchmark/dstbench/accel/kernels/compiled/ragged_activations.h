// Activations and norms of planes, [features][points], lanes of which are points.

#pragma once

#include "ragged_vectors.h"

#include <cmath>

enum Activation : int64_t { NONE, RELU, GELU, GELU_TANH, SILU };  // as `chains.py` numbers them

typedef int32_t Integers __attribute__((vector_size(lanes * 4), aligned(4), may_alias));

static inline Vector all(float value) { return Vector{} + value; }
static inline Vector at_most(Vector a, Vector limit) { return a < limit ? a : limit; }
static inline Vector at_least(Vector a, Vector limit) { return a > limit ? a : limit; }

// e to the x, to 2 units in the last place: a power of two, times a polynomial of what is left.
static inline Vector exponential(Vector x) {
    x = at_most(at_least(x, all(-87)), all(88));
    const Vector magic = all(12582912);  // 1.5 * 2^23: what is added to it is rounded to an integer
    const Vector shifted = x * 1.44269504f + magic, power = shifted - magic;
    const Vector left = (x - power * 0.693359375f) - power * -2.12194440e-4f;
    Vector sum = all(1.9875691500e-4f);  // Cephes, expf
    for (const float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
        sum = sum * left + c;
    sum = sum * left * left + left + 1.0f;
    const Integers exponent = reinterpret_cast<const Integers &>(shifted) << 23;  // the magic's low bits go
    const Integers scaled = reinterpret_cast<const Integers &>(sum) + exponent;
    return reinterpret_cast<const Vector &>(scaled);
}

// x times the normal distribution function. That is 1/2 + x p(x^2); p is fitted for the least largest error of the
// product, 1.4e-6, up to |x| = 5; beyond, it differs from 0 or 1 by less than 3e-7.
static inline Vector gelu(Vector x) {
    const Vector limited = at_most(at_least(x, all(-5)), all(5)), t = limited * limited * 0.08f - 1.0f;
    Vector sum = all(4.929591087e-4f);
    UNROLL for (const float c : {-1.5141436597e-3f, 2.0018843934e-3f, -2.9156962410e-3f, 6.1654103920e-3f, -1.0973213241e-2f,
                                 1.6497664154e-2f, -2.3336738348e-2f, 3.1426228583e-2f, -4.0432948619e-2f,
                                 5.1521420479e-2f, -7.0296652615e-2f, 1.4136378467e-1f})
        sum = sum * t + c;
    return x * (0.5f + limited * sum);
}

static inline Vector silu(Vector x) { return x / (1.0f + exponential(-x)); }

static inline Vector gelu_tanh(Vector x) {  // x (1 + tanh(z)) / 2 = x / (1 + exp(-2 z))
    return x / (1.0f + exponential(x * (x * x * -0.07135481283f - 1.595769122f)));
}

template <class Function>
static void map(const Function &function, float *y, const int64_t *to, int64_t rows, int64_t points) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t p = 0; p < points; p += lanes) vector(y + to[r] + p) = function(vector(y + to[r] + p));
}

// y[to[row]] = activation(y[to[row]]), on all points.
static void activate(int64_t activation, float *y, const int64_t *to, int64_t rows, int64_t points) {
    if (activation == RELU) map([](Vector x) { return x < Vector{} ? Vector{} : x; }, y, to, rows, points);
    if (activation == GELU) map(gelu, y, to, rows, points);
    if (activation == GELU_TANH) map(gelu_tanh, y, to, rows, points);
    if (activation == SILU) map(silu, y, to, rows, points);
}

// to = the layer norm of each point (about its mean), or its RMS norm. scale, shift: [features], or null.
static void normalise(const float *from, int64_t features, int64_t points, bool centred, float eps, const float *scale,
                      const float *shift, float *to) {
    for (int64_t p = 0; p < points; p += lanes) {
        const auto at = [=](int64_t f) { return vector(from + f * points + p); };
        constexpr int several = 4;  // sums, so that additions needn't wait for each other
        const auto sum = [&](const auto &term) {
            Vector sums[several] = {};
            int64_t f = 0;
            for (; f + several <= features; f += several)
                UNROLL for (int i = 0; i < several; i++) sums[i] += term(f + i);
            for (; f < features; f++) sums[0] += term(f);
            return (sums[0] + sums[1] + (sums[2] + sums[3])) / float(features);
        };
        const Vector mean = centred ? sum(at) : Vector{};
        const Vector variance = sum([&](int64_t f) { return (at(f) - mean) * (at(f) - mean); }) + eps;
        Vector inverse = {};
        for (int i = 0; i < lanes; i++) inverse[i] = 1 / std::sqrt(variance[i]);
        for (int64_t f = 0; f < features; f++) {
            Vector y = (at(f) - mean) * inverse;
            if (scale) y *= scale[f];
            if (shift) y += shift[f];
            vector(to + f * points + p) = y;
        }
    }
}
