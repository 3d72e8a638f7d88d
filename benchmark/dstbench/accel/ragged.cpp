// Products of row groups with ragged column lists, forward and backward, float32.
//
// A *chunk* is some images whose data stand as planes [in][plane], the chunk's images innermost, so that an entry k
// of the weight, an (in-channel, tap) pair, meets all outputs of the chunk in one run of `points` floats from
// offset[k]. There is no gather: every kernel walks the offsets. Strides, padding and dilation are in the planes:
// one copy of the input per tap column and row phase, with zeros at the border. A linear layer has one-pixel images.

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#if defined(__AVX512F__)
constexpr int lanes = 16;
#elif defined(__AVX__)
constexpr int lanes = 8;
#else
constexpr int lanes = 4;
#endif
typedef float Vector __attribute__((vector_size(lanes * 4), aligned(4), may_alias));

#define UNROLL _Pragma("GCC unroll 16")

static Vector &vector(float *at) { return *reinterpret_cast<Vector *>(at); }
static const Vector &vector(const float *at) { return *reinterpret_cast<const Vector *>(at); }

using Buffer = std::vector<float>;

// What `ragged.py` fills in; fields in the same order.
struct Layer {
    int64_t in, height, width, out, out_height, out_width;
    int64_t kernel_height, kernel_width, stride_height, stride_width;
    int64_t padding_height, padding_width, dilation_height, dilation_width;
    int64_t groups, block;
    const int64_t *ptr, *perm;  // [groups + 1], [out]
    const int32_t *cols;        // [entries], numbered (in-channel, tap)

    int64_t entries() const { return ptr[groups]; }
    int64_t pixels() const { return out_height * out_width; }
    int64_t image() const { return in * height * width; }
    int64_t padded_block() const { return (block + lanes - 1) / lanes * lanes; }

    // Planes: [in, phases, kernel_width, plane_height, out_width]. Row r of phase p holds input row
    // r * stride_height + p - padding_height: one phase does where there is one tap row.
    int64_t phases() const { return kernel_height == 1 ? 1 : stride_height; }
    int64_t plane_height() const { return out_height + (kernel_height - 1) * dilation_height / stride_height; }
    int64_t planes() const { return in * phases() * kernel_width * plane_height() * out_width; }
    bool plain() const {  // planes are the input itself
        return kernel_height * kernel_width * stride_height * stride_width == 1 && !padding_height && !padding_width;
    }
};

// One chunk: `count` images of a batch, kept `width` to a run (those above `count` are zero).
struct Chunk {
    int64_t first, count, width, points;
};

static Chunk chunk(const Layer &layer, int64_t index, int64_t images, int64_t width) {
    return {index * width, std::min(width, images - index * width), width, layer.pixels() * width};
}

static float *reserve(Buffer &buffer, int64_t size) {
    if (int64_t(buffer.size()) < size + lanes) buffer.resize(size + lanes);  // a last vector may read over the end
    return buffer.data();
}

// ---- transposition

template <int step, int... lane>
static void exchange(Vector &low, Vector &high, std::integer_sequence<int, lane...>) {
    const Vector a = low, b = high;
    low = __builtin_shufflevector(a, b, ((lane & step) ? lanes + (lane ^ step) : lane)...);
    high = __builtin_shufflevector(a, b, ((lane & step) ? lanes + lane : (lane ^ step))...);
}

template <int step>
static void exchange_all(Vector *rows) {
    for (int i = 0; i < lanes; i++)
        if (!(i & step)) exchange<step>(rows[i], rows[i + step], std::make_integer_sequence<int, lanes>());
    if constexpr (step > 1) exchange_all<step / 2>(rows);
}

// to[column * to_stride + row] = from(row)[column]; rows from `rows` up to a whole number of vectors become zero.
template <class Rows>
static void transpose(float *to, int64_t to_stride, Rows from, int64_t rows, int64_t columns) {
    for (int64_t r = 0; r < rows; r += lanes) {
        const int64_t height = std::min<int64_t>(lanes, rows - r);
        int64_t c = 0;
        for (; height == lanes && c + lanes <= columns; c += lanes) {
            Vector tile[lanes];
            for (int i = 0; i < lanes; i++) tile[i] = vector(from(r + i) + c);
            exchange_all<lanes / 2>(tile);
            for (int i = 0; i < lanes; i++) vector(to + (c + i) * to_stride + r) = tile[i];
        }
        for (; c < columns; c++)
            for (int64_t i = 0; i < height; i++) to[c * to_stride + r + i] = from(r + i)[c];
    }
}

// ---- between tensors [images][features] and chunks [features][width]

static const float *interleave(const Chunk &chunk, const float *x, int64_t features, Buffer &buffer) {
    const float *from = x + chunk.first * features;
    if (chunk.width == 1) return from;
    float *to = reserve(buffer, features * chunk.width);
    if (chunk.count < chunk.width) std::memset(to, 0, features * chunk.width * sizeof(float));
    transpose(to, chunk.width, [=](int64_t i) { return from + i * features; }, chunk.count, features);
    return to;
}

// Rows of `points` floats, each followed by zeros up to a whole number of vectors.
static const float *pad(const float *from, int64_t rows, int64_t points, int64_t stride, Buffer &buffer) {
    if (points == stride) return from;
    float *to = reserve(buffer, rows * stride);
    for (int64_t r = 0; r < rows; r++) {
        std::memcpy(to + r * stride, from + r * points, points * sizeof(float));
        std::memset(to + r * stride + points, 0, (stride - points) * sizeof(float));
    }
    return to;
}

static void separate(const Chunk &chunk, const float *from, int64_t features, float *x) {
    float *to = x + chunk.first * features;
    if (chunk.width == 1) {
        if (to != from) std::memcpy(to, from, features * sizeof(float));
        return;
    }
    const int64_t width = chunk.width, count = chunk.count;
    for (int64_t f = 0; f < features; f += lanes) {  // whole tiles of features, so that lines are written once
        const int64_t height = std::min<int64_t>(lanes, features - f);
        transpose(to + f, features, [=](int64_t i) { return from + (f + i) * width; }, height, count);
    }
}

// The part of a plane that stands in the image: rows [top, bottom) and columns [first, last) of it, from `image` on.
struct Inside {
    int64_t plane, image, top, bottom, first, last;
};

static int64_t ceil_div(int64_t a, int64_t b) { return a <= 0 ? 0 : (a + b - 1) / b; }

template <class Visit>
static void each_plane(const Layer &l, Visit visit) {
    const int64_t size = l.plane_height() * l.out_width;
    int64_t plane = 0;
    for (int64_t c = 0; c < l.in; c++)
        for (int64_t phase = 0; phase < l.phases(); phase++)
            for (int64_t tap = 0; tap < l.kernel_width; tap++, plane += size) {
                const int64_t down = phase - l.padding_height, right = tap * l.dilation_width - l.padding_width;
                const int64_t top = ceil_div(-down, l.stride_height), first = ceil_div(-right, l.stride_width);
                const int64_t bottom = std::min(l.plane_height(), ceil_div(l.height - down, l.stride_height));
                const int64_t last = std::min(l.out_width, ceil_div(l.width - right, l.stride_width));
                if (top >= bottom || first >= last) continue;
                const int64_t row = top * l.stride_height + down, column = first * l.stride_width + right;
                visit(Inside{plane, (c * l.height + row) * l.width + column, top, bottom, first, last});
            }
}

// Planes whose rows follow one another as the image's do are copied in one go, border columns included; those
// between the last column of a row and the first of the next one are then cleared.
static bool in_step(const Layer &l) {
    return l.stride_height == 1 && l.stride_width == 1 && l.out_width == l.width;
}

static void clear_between(const Layer &l, const Inside &in, int64_t width, float *plane) {
    const int64_t size = (l.out_width - (in.last - in.first)) * width;
    for (int64_t row = in.top + 1; size && row < in.bottom; row++) {
        float *from = plane + ((row - 1) * l.out_width + in.last) * width;
        if (size == 1)  // by far the most common, and a call would take longer
            *from = 0;
        else
            std::memset(from, 0, size * sizeof(float));
    }
}

static int64_t in_one_go(const Layer &l, const Inside &in, int64_t width) {
    return ((in.bottom - in.top - 1) * l.out_width + in.last - in.first) * width;
}

// The planes of a chunk. `planes` is zero at the borders.
static void spread(const Layer &l, int64_t width, const float *x, float *planes) {
    each_plane(l, [=, &l](const Inside &in) {
        float *plane = planes + in.plane * width;
        const float *from = x + in.image * width;
        if (in_step(l)) {
            float *to = plane + (in.top * l.out_width + in.first) * width;
            std::memcpy(to, from, in_one_go(l, in, width) * sizeof(float));
            clear_between(l, in, width, plane);
            return;
        }
        for (int64_t row = in.top; row < in.bottom; row++, from += l.stride_height * l.width * width)
            for (int64_t column = in.first; column < in.last; column++)
                for (int64_t i = 0; i < width; i++)
                    plane[(row * l.out_width + column) * width + i] =
                        from[(column - in.first) * l.stride_width * width + i];
    });
}

// One thread's planes, chunk after chunk.
struct Planes {
    Buffer interleaved, spreaded;

    void clear(const Layer &l, int64_t width) {
        const int64_t size = l.plain() ? 0 : l.planes() * width;
        std::memset(reserve(spreaded, size), 0, size * sizeof(float));
    }

    const float *of(const Layer &l, const Chunk &c, const float *x) {
        const float *from = interleave(c, x, l.image(), interleaved);
        if (!l.plain()) {
            spread(l, c.width, from, spreaded.data());
            return spreaded.data();
        }
        if (c.points % lanes == 0) return from;
        const int64_t size = l.image() * c.width;  // else a last vector would read over the end
        return static_cast<float *>(std::memcpy(reserve(spreaded, size), from, size * sizeof(float)));
    }
};

// The reverse, for gradients: x += planes. Their borders are overwritten.
static void fold(const Layer &l, int64_t width, float *planes, float *x) {
    each_plane(l, [=, &l](const Inside &in) {
        float *plane = planes + in.plane * width, *to = x + in.image * width;
        if (in_step(l)) {
            clear_between(l, in, width, plane);
            const float *from = plane + (in.top * l.out_width + in.first) * width;
            const int64_t size = in_one_go(l, in, width);
            for (int64_t p = 0; p < size; p++) to[p] += from[p];
            return;
        }
        for (int64_t row = in.top; row < in.bottom; row++, to += l.stride_height * l.width * width)
            for (int64_t column = in.first; column < in.last; column++)
                for (int64_t i = 0; i < width; i++)
                    to[(column - in.first) * l.stride_width * width + i] +=
                        plane[(row * l.out_width + column) * width + i];
    });
}

// ---- the kernels; each keeps a tile of vectors in registers

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
    for (; k + U <= count; k += U)
        UNROLL for (int u = 0; u < U; u++) add(sum[u], k + u);
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
        float *to[8], shift[8];
        const int64_t size = rows - r >= 8 ? 8 : rows - r >= 4 ? 4 : 1;
        for (int64_t i = 0; i < size; i++) to[i] = y + perm[r + i] * points, shift[i] = bias ? bias[perm[r + i]] : 0;
        const auto run = size == 8 ? forward_rows<8, 2> : size == 4 ? forward_rows<4, 4> : forward_rows<1, 4>;
        run(x, offset + start, count, w + start * l.block + r, l.block, to, shift, points);
        r += size;
    }
}

template <int V>
static void input_points(const Layer &l, float *dx, const int64_t *offset, const float *w, const float *const *dy,
                         int64_t count, int64_t at) {
    constexpr int T = V == 1 ? 8 : 4;
    int64_t k = 0;
    for (; k + T <= count; k += T) input_tile<T, V>(dx + at, offset + k, w + k * l.block, l.block, dy, at);
    for (; k < count; k++) input_tile<1, V>(dx + at, offset + k, w + k * l.block, l.block, dy, at);
}

static void input_group(const Layer &l, float *dx, const int64_t *offset, const float *w, const float *const *dy,
                        int64_t count, int64_t points) {
    int64_t p = 0;
    for (; p + 3 * lanes < points; p += 4 * lanes) input_points<4>(l, dx, offset, w, dy, count, p);
    for (; p < points; p += lanes) input_points<1>(l, dx, offset, w, dy, count, p);
}

template <int R>
static void weight_entries(const float *x, const int64_t *offset, int64_t count, const float *dy, int64_t stride,
                           int64_t points, float *dw) {
    constexpr int T = R == 1 ? 8 : R == 2 ? 8 : 4;
    int64_t k = 0;
    for (; k + T <= count; k += T) weight_tile<T, R>(x, offset + k, dy, stride, points, dw + k * stride);
    for (; k < count; k++) weight_tile<1, R>(x, offset + k, dy, stride, points, dw + k * stride);
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
        const int64_t size = stride - r >= 4 * lanes ? 4 : stride - r >= 2 * lanes ? 2 : 1;
        const auto run = size == 4 ? weight_entries<4> : size == 2 ? weight_entries<2> : weight_entries<1>;
        run(x, offset, count, turned + r, stride, points, dw + r);
        r += size * lanes;
    }
}

// ---- what `ragged.py` calls

// Where each entry's run starts in a chunk: [entries].
static std::vector<int64_t> offsets(const Layer &l, int64_t width) {
    std::vector<int64_t> start;
    for (int64_t c = 0; c < l.in; c++)
        for (int64_t h = 0; h < l.kernel_height; h++)
            for (int64_t w = 0; w < l.kernel_width; w++) {
                const int64_t row = h * l.dilation_height / l.stride_height;
                const int64_t phase = h * l.dilation_height % l.stride_height;
                const int64_t plane = (c * l.phases() + phase) * l.kernel_width + w;
                start.push_back((plane * l.plane_height() + row) * l.out_width * width);
            }
    std::vector<int64_t> offset(l.entries());
    for (int64_t s = 0; s < l.entries(); s++) offset[s] = start[l.cols[s]];
    return offset;
}

extern "C" void forward(const Layer *layer, const float *x, int64_t images, int64_t width, const float *w,
                        const float *bias, float *y, int threads) {
    const Layer &l = *layer;
    const auto offset = offsets(l, width);
    const int64_t features = l.out * l.pixels();
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
            separate(c, to, features, y);
        }
    }
}

// dx or dw may be null. dw: [entries][block], summed per thread, then over threads.
extern "C" void backward(const Layer *layer, const float *x, const float *dy, int64_t images, int64_t width,
                         const float *w, float *dx, float *dw, int threads) {
    const Layer &l = *layer;
    const auto offset = offsets(l, width);
    const int64_t stride = l.block == 1 ? 1 : l.padded_block(), features = l.out * l.pixels();
    std::vector<const float *> partial(threads);
#pragma omp parallel num_threads(threads)
    {
        static thread_local Planes input;
        static thread_local Buffer gradient, padded, sums, folded, turned, zero, weights;
        if (dw) input.clear(l, width);
        float *mine = reserve(weights, l.entries() * stride);
        if (dw) std::memset(mine, 0, l.entries() * stride * sizeof(float));
        partial[omp_get_thread_num()] = mine;
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
            separate(c, into, l.image(), dx);
        }
        if (dw) {
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
