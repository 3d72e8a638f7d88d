// The arithmetic: each kernel keeps a tile of vectors in registers.
//
// A tile is up to `tall` by `wide` vectors of sums: 26 of 32 registers, 12 of AVX2's 16; the rest holds one step's
// operands. It loads `tall` + `wide` of these for `tall` times `wide` multiply-adds: 15 for 26, where a processor
// can do two of each in a cycle. A larger tile spills, and a smaller one waits for loads. Gradients take `low` by
// `broad` where there is room: 10 loads for 24, and there are addresses for fewer entries to be held.

#pragma once

#include "ragged_vectors.h"

#include <type_traits>

constexpr int tall = lanes == 16 ? 13 : 6, wide = 2;
constexpr int low = lanes == 16 ? 6 : tall, broad = lanes == 16 ? 4 : wide;
constexpr int64_t ahead = 16;  // entries: a tile reads a part of each row of weights, which processors don't foresee

#define KERNEL static __attribute__((noinline)) void

// How many rows, or entries, the next tile takes of so many that are left: equal shares, as few as there can be.
static int64_t next(int64_t left, int64_t most = tall) {
    const int64_t tiles = (left + most - 1) / most;
    return (left + tiles - 1) / tiles;
}

// run(size), with a size of 1 to `most` that the compiler knows.
template <int most = tall, class Run>
static void sized(int64_t size, const Run &run) {
    if constexpr (most > 1)
        if (size < most) return sized<most - 1>(size, run);
    run(std::integral_constant<int, most>{});
}

// run(vectors, most): the widest tile for so many vectors that are left, and how many of the others it takes at most.
template <class Run>
static void broadly(int64_t left, const Run &run) {
    using std::integral_constant;
    if (left >= broad) return run(integral_constant<int, broad>{}, integral_constant<int, low>{});
    if (left >= wide) return run(integral_constant<int, wide>{}, integral_constant<int, tall>{});
    run(integral_constant<int, 1>{}, integral_constant<int, tall>{});
}

// y[to[row]][0:V] = bias[row] + sum over k of w[k][row] * x[offset[k]][0:V], R rows; only `valid` floats of a row
// are written.
template <int R, int V>
KERNEL forward_tile(const float *x, const int64_t *offset, int64_t count, const float *w, int64_t block, float *y,
                    const int64_t *to, const float *bias, int64_t valid) {
    constexpr int U = R * V < 8 ? 2 : 1;  // independent sums, so that additions needn't wait for each other
    Vector sum[U][R][V] = {};
    const auto add = [&](Vector(&into)[R][V], int64_t k) {
        Vector in[V];
        UNROLL for (int v = 0; v < V; v++) in[v] = vector(x + offset[k] + v * lanes);
        UNROLL for (int r = 0; r < R; r++)
            UNROLL for (int v = 0; v < V; v++) into[r][v] += w[k * block + r] * in[v];
    };
    int64_t k = 0;
    for (; k + U <= count; k += U) {
        __builtin_prefetch(w + (k + ahead) * block + R - 1);  // what it begins with, the tile before has read
        UNROLL for (int u = 0; u < U; u++) add(sum[u], k + u);
    }
    for (; k < count; k++) add(sum[0], k);
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int v = 0; v < V; v++) {  // a bias to start from would cost registers
            sum[0][r][v] += bias[r];
            if constexpr (U == 2) sum[0][r][v] += sum[1][r][v];
        }
    if (valid >= V * lanes) {
        UNROLL for (int r = 0; r < R; r++)
            UNROLL for (int v = 0; v < V; v++) vector(y + to[r] + v * lanes) = sum[0][r][v];
        return;
    }
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int v = 0; v < V; v++) {
            const Vector total = sum[0][r][v];
            const int64_t left = std::min<int64_t>(valid - v * lanes, lanes);
            if (left > 0) std::memcpy(y + to[r] + v * lanes, &total, left * sizeof(float));
        }
}

// dx[offset[k]][0:V] += sum over rows of w[k][row] * dy[row][0:V], T entries.
template <int T, int V>
KERNEL input_tile(float *dx, const int64_t *offset, const float *w, int64_t block, const float *const *dy, int64_t at) {
    Vector sum[T][V] = {};
    for (int64_t b = 0; b < block; b++) {
        __builtin_prefetch(w + T * block + b * T);
        Vector out[V];
        UNROLL for (int v = 0; v < V; v++) out[v] = vector(dy[b] + at + v * lanes);
        UNROLL for (int t = 0; t < T; t++)
            UNROLL for (int v = 0; v < V; v++) sum[t][v] += w[t * block + b] * out[v];
    }
    UNROLL for (int t = 0; t < T; t++)
        UNROLL for (int v = 0; v < V; v++) vector(dx + offset[t] + v * lanes) += sum[t][v];
}

// dw[k][0:R] += sum over points of x[offset[k]][point] * dy[point][0:R], T entries; dy has `stride` floats a point.
// fresh: there is nothing in dw yet.
template <int T, int R>
KERNEL weight_tile(const float *x, const int64_t *offset, const float *dy, int64_t stride, int64_t points, float *dw,
                   bool fresh) {
    constexpr int U = T * R < 8 ? 2 : 1;
    Vector sum[U][T][R] = {};
    const float *in[T];
    UNROLL for (int t = 0; t < T; t++) in[t] = x + offset[t];
    UNROLL for (int t = 0; t < T; t++)  // it is long since the last chunk's sums were here
        UNROLL for (int r = 0; r < R; r++) __builtin_prefetch(dw + t * stride + r * lanes, 1);
    const auto add = [&](Vector(&into)[T][R], int64_t point) {
        Vector out[R];
        UNROLL for (int r = 0; r < R; r++) out[r] = vector(dy + point * stride + r * lanes);
        UNROLL for (int t = 0; t < T; t++)
            UNROLL for (int r = 0; r < R; r++) into[t][r] += in[t][point] * out[r];
    };
    int64_t point = 0;
    for (; point + U <= points; point += U)
        UNROLL for (int u = 0; u < U; u++) add(sum[u], point + u);
    for (; point < points; point++) add(sum[0], point);
    UNROLL for (int t = 0; t < T; t++)
        UNROLL for (int r = 0; r < R; r++) {
            Vector total = sum[0][t][r];
            if constexpr (U == 2) total += sum[1][t][r];
            if (!fresh) total += vector(dw + t * stride + r * lanes);
            vector(dw + t * stride + r * lanes) = total;
        }
}

// The same for groups of one row, where lanes are points. dy's floats above `points` are zero.
static float dot(const float *x, const float *dy, int64_t points) {
    Vector sum[2] = {};
    int64_t p = 0;
    for (; p + 2 * lanes <= points; p += 2 * lanes)
        for (int u = 0; u < 2; u++) sum[u] += vector(x + p + u * lanes) * vector(dy + p + u * lanes);
    for (; p + lanes <= points; p += lanes) sum[0] += vector(x + p) * vector(dy + p);
    sum[0] += sum[1];
    float total = 0;
    for (int i = 0; i < lanes; i++) total += sum[0][i];
    for (; p < points; p++) total += x[p] * dy[p];
    return total;
}
