// Products of row groups with ragged column lists, forward and backward, float32.
//
// There is no gather: every kernel walks the offsets of a group's entries into the planes of a chunk, so linear
// layers and all convolutions share it. Images are shared out over threads; nothing is written by two of them.

#include "ragged_planes.h"

#include <omp.h>
#include <sys/mman.h>

// ---- the kernels; each keeps a tile of vectors in registers
//
// A tile is `tall` by `wide` vectors of sums: 24 of 32 registers, 12 of AVX2's 16. What is left holds one step's
// operands; a larger tile spills, and a smaller one waits for loads.

constexpr int tall = lanes == 16 ? 12 : 6, wide = 2;
constexpr int64_t ahead = 16;  // entries: a tile reads a part of each row of weights, which processors don't foresee

// How many rows, or entries, the next tile takes of so many that are left; where whole tiles would leave 2, fewer.
static int64_t next(int64_t left) { return left >= tall && left % tall != 2 ? tall : left >= 4 ? 4 : 1; }

// y[row][0:V] = sum over k of w[k][row] * x[offset[k]][0:V], R rows; only `valid` floats of a row are written.
template <int R, int V>
static void forward_tile(const float *x, const int64_t *offset, int64_t count, const float *w, int64_t block,
                         float *const *y, const float *bias, int64_t valid) {
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
        __builtin_prefetch(w + (k + ahead) * block);
        UNROLL for (int u = 0; u < U; u++) add(sum[u], k + u);
    }
    for (; k < count; k++) add(sum[0], k);
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int v = 0; v < V; v++) {
            Vector total = sum[0][r][v] + bias[r];
            if constexpr (U == 2) total += sum[1][r][v];
            const int64_t left = valid - v * lanes;
            if (left >= lanes)
                vector(y[r] + v * lanes) = total;
            else if (left > 0)
                std::memcpy(y[r] + v * lanes, &total, left * sizeof(float));
        }
}

// dx[offset[k]][0:V] += sum over rows of w[k][row] * dy[row][0:V], T entries.
template <int T, int V>
static void input_tile(float *dx, const int64_t *offset, const float *w, int64_t block, const float *const *dy,
                       int64_t at) {
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
template <int T, int R>
static void weight_tile(const float *x, const int64_t *offset, const float *dy, int64_t stride, int64_t points,
                        float *dw) {
    constexpr int U = T * R < 12 ? 2 : 1;
    Vector sum[U][T][R] = {};
    const float *in[T];
    UNROLL for (int t = 0; t < T; t++) in[t] = x + offset[t];
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
            vector(dw + t * stride + r * lanes) += total;
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

// ---- loops over tiles

template <int R, int V>
static void forward_rows(const float *x, const int64_t *offset, int64_t count, const float *w, int64_t block,
                         float *const *y, const float *bias, int64_t points) {
    for (int64_t p = 0; p < points;) {
        float *to[R];
        for (int r = 0; r < R; r++) to[r] = y[r] + p;
        const bool whole = points - p > (V - 1) * lanes;
        (whole ? forward_tile<R, V> : forward_tile<R, 1>)(x + p, offset, count, w, block, to, bias, points - p);
        p += (whole ? V : 1) * lanes;
    }
}

static void forward_group(const Layer &l, const float *x, const int64_t *offset, const float *w, int64_t g,
                          const float *bias, float *y, int64_t points) {
    const int64_t start = l.ptr[g], count = l.ptr[g + 1] - start;
    const int64_t rows = std::min(l.block, l.out - g * l.block);
    const int64_t *perm = l.perm + g * l.block;
    for (int64_t r = 0; r < rows;) {
        float *to[tall], shift[tall];
        const int64_t size = next(rows - r);
        for (int64_t i = 0; i < size; i++) to[i] = y + perm[r + i] * points, shift[i] = bias ? bias[perm[r + i]] : 0;
        const auto run = size == tall ? forward_rows<tall, wide> : size == 4 ? forward_rows<4, wide> : forward_rows<1, 4>;
        run(x, offset + start, count, w + start * l.block + r, l.block, to, shift, points);
        r += size;
    }
}

template <int V>
static void input_points(const Layer &l, float *dx, const int64_t *offset, const float *w, const float *const *dy,
                         int64_t count, int64_t at) {
    for (int64_t k = 0; k < count;) {
        const int64_t size = next(count - k);
        const auto run = size == tall ? input_tile<tall, V> : size == 4 ? input_tile<4, V> : input_tile<1, V>;
        run(dx + at, offset + k, w + k * l.block, l.block, dy, at);
        k += size;
    }
}

static void input_group(const Layer &l, float *dx, const int64_t *offset, const float *w, const float *const *dy,
                        int64_t count, int64_t points) {
    int64_t p = 0;
    for (; p + (wide - 1) * lanes < points; p += wide * lanes) input_points<wide>(l, dx, offset, w, dy, count, p);
    for (; p < points; p += lanes) input_points<1>(l, dx, offset, w, dy, count, p);
}

template <int R>
static void weight_entries(const float *x, const int64_t *offset, int64_t count, const float *dy, int64_t stride,
                           int64_t points, float *dw) {
    for (int64_t k = 0; k < count;) {
        const int64_t size = next(count - k);
        const auto run = size == tall ? weight_tile<tall, R> : size == 4 ? weight_tile<4, R> : weight_tile<1, R>;
        run(x, offset + k, dy, stride, points, dw + k * stride);
        k += size;
    }
}

static void weight_group(const Layer &l, const float *x, const int64_t *offset, const float *const *dy,
                         int64_t count, int64_t points, float *dw, Buffer &buffer) {
    if (l.block == 1) {
        for (int64_t k = 0; k < count; k++) dw[k] += dot(x + offset[k], dy[0], points);
        return;
    }
    const int64_t stride = l.padded_block();
    float *turned = reserve(buffer, points * stride);
    transpose(turned, stride, [=](int64_t b) { return dy[b]; }, stride, points);
    for (int64_t r = 0; r < stride;) {
        const int64_t size = stride - r >= wide * lanes ? wide : 1;
        const auto run = size == wide ? weight_entries<wide> : weight_entries<1>;
        run(x, offset, count, turned + r, stride, points, dw + r);
        r += size * lanes;
    }
}

// ---- what `ragged.py` calls

// A fresh tensor's pages are made at first touch, which takes longer than many a product: ask for huge ones.
static void ask_for_huge_pages(float *to, int64_t size) {
#ifdef MADV_HUGEPAGE
    constexpr uintptr_t page = 2 << 20;
    const uintptr_t start = (uintptr_t(to) + page - 1) / page * page, end = uintptr_t(to + size) / page * page;
    if (start < end) madvise(reinterpret_cast<void *>(start), end - start, MADV_HUGEPAGE);
#endif
}

extern "C" void forward(const Layer *layer, const float *x, int64_t images, int64_t width, const float *w,
                        const float *bias, float *y, int threads) {
    const Layer &l = *layer;
    const auto offset = offsets(l, width);
    const int64_t features = l.out * l.pixels();
    ask_for_huge_pages(y, images * features);
#pragma omp parallel num_threads(threads)
    {
        static thread_local Planes input;
        static thread_local Buffer output;
        input.clear(l, width);
#pragma omp for schedule(static)
        for (int64_t index = 0; index < (images + width - 1) / width; index++) {
            const Chunk c = chunk(l, index, images, width);
            const float *planes = input.of(l, c, x);
            float *to = width == 1 ? y + c.first * features : reserve(output, features * width);
            for (int64_t g = 0; g < l.groups; g++) forward_group(l, planes, offset.data(), w, g, bias, to, c.points);
            separate(c, to, features, y, images);
        }
    }
}

// dx or dw may be null. dw: [entries][block], summed per thread, then over threads.
extern "C" void backward(const Layer *layer, const float *x, const float *dy, int64_t images, int64_t width,
                         const float *w, float *dx, float *dw, int threads) {
    const Layer &l = *layer;
    const auto offset = offsets(l, width);
    const int64_t stride = l.block == 1 ? 1 : l.padded_block(), features = l.out * l.pixels();
    if (dx) ask_for_huge_pages(dx, images * l.image());
    std::vector<const float *> partial(threads);
#pragma omp parallel num_threads(threads)
    {
        static thread_local Planes input;
        static thread_local Buffer gradient, padded, sums, folded, turned, zero, weights;
        if (dw) input.clear(l, width);
        const int me = omp_get_thread_num();
        float *mine = dw && stride == l.block && !me ? dw : reserve(weights, l.entries() * stride);
        if (dw) std::memset(mine, 0, l.entries() * stride * sizeof(float));
        partial[me] = mine;
#pragma omp for schedule(static)
        for (int64_t index = 0; index < (images + width - 1) / width; index++) {
            const Chunk c = chunk(l, index, images, width);
            const int64_t run = (c.points + lanes - 1) / lanes * lanes;
            const float *planes = dw ? input.of(l, c, x) : nullptr;
            const float *out = pad(interleave(c, dy, features, gradient), l.out, c.points, run, padded);
            float *into = dx ? reserve(sums, l.planes() * width) : nullptr;
            if (dx) std::memset(into, 0, l.planes() * width * sizeof(float));
            const float *none = reserve(zero, run);
            std::vector<const float *> rows(l.padded_block());
            for (int64_t g = 0; g < l.groups; g++) {
                const int64_t start = l.ptr[g], count = l.ptr[g + 1] - start;
                for (int64_t b = 0; b < int64_t(rows.size()); b++) {
                    const int64_t row = g * l.block + b;
                    rows[b] = b < l.block && row < l.out ? out + l.perm[row] * run : none;
                }
                if (dx) input_group(l, into, offset.data() + start, w + start * l.block, rows.data(), count, run);
                if (dw)
                    weight_group(l, planes, offset.data() + start, rows.data(), count, c.points,
                                 mine + start * stride, turned);
            }
            if (!dx) continue;
            if (!l.plain()) {
                float *to = width == 1 ? dx + c.first * l.image() : reserve(folded, l.image() * width);
                std::memset(to, 0, l.image() * width * sizeof(float));
                fold(l, width, into, to);
                into = to;
            }
            separate(c, into, l.image(), dx, images);
        }
        if (dw && (threads > 1 || partial[0] != dw)) {
#pragma omp for schedule(static)
            for (int64_t k = 0; k < l.entries(); k++)
                for (int64_t b = 0; b < l.block; b++) {
                    float total = 0;
                    for (const float *part : partial) total += part ? part[k * stride + b] : 0;
                    dw[k * l.block + b] = total;
                }
        }
    }
}
