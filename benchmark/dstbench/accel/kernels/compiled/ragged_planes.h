// How tensors become the planes that ragged.cpp's kernels read, and back.
//
// A *chunk* is some images whose data stand as planes [in][plane], the chunk's images innermost, so that an entry k
// of the weight, an (in-channel, tap) pair, meets all outputs of the chunk in one run of `points` floats from
// offset[k]. Strides, padding and dilation are in the planes: one copy of the input per tap column and row phase,
// with zeros at the border. A linear layer has one-pixel images.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#if defined(__AVX512F__)
#include <immintrin.h>
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

// to[column * to_stride + row] = from(row)[column];
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

// Past the caches, where the processor writes whole lines: what is larger than they are needn't be read to be written.
static bool pass_by(const Chunk &chunk, const float *from, int64_t features, float *to, int64_t images) {
#if defined(__AVX512F__)
    constexpr int64_t large = 1 << 20;  // floats
    if (images * features < large || (features | chunk.count) % lanes || reinterpret_cast<uintptr_t>(to) % 64) return false;
    for (int64_t i = 0; i < chunk.count; i += lanes)
        for (int64_t f = 0; f < features; f += lanes) {
            Vector tile[lanes];
            for (int j = 0; j < lanes; j++) tile[j] = vector(from + (f + j) * chunk.width + i);
            exchange_all<lanes / 2>(tile);
            for (int j = 0; j < lanes; j++) _mm512_stream_ps(to + (i + j) * features + f, __m512(tile[j]));
        }
    _mm_sfence();
    return true;
#else
    return false;
#endif
}

static void separate(const Chunk &chunk, const float *from, int64_t features, float *x, int64_t images) {
    float *to = x + chunk.first * features;
    if (chunk.width == 1) {
        if (to != from) std::memcpy(to, from, features * sizeof(float));
        return;
    }
    if (pass_by(chunk, from, features, to, images)) return;
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
    Buffer interleaved, copies;

    void clear(const Layer &l, int64_t width) {
        const int64_t size = l.plain() ? 0 : l.planes() * width;
        std::memset(reserve(copies, size), 0, size * sizeof(float));
    }

    const float *of(const Layer &l, const Chunk &c, const float *x) {
        const float *from = interleave(c, x, l.image(), interleaved);
        if (!l.plain()) {
            spread(l, c.width, from, copies.data());
            return copies.data();
        }
        if (c.points % lanes == 0) return from;
        const int64_t size = l.image() * c.width;  // else a last vector would read over the end
        return static_cast<float *>(std::memcpy(reserve(copies, size), from, size * sizeof(float)));
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

// Where each entry's run starts in a chunk: [entries].
static std::vector<int64_t> offsets(const Layer &l, int64_t width) {
    std::vector<int64_t> offset(l.entries());
    if (l.plain()) {
        for (int64_t s = 0; s < l.entries(); s++) offset[s] = l.cols[s] * l.pixels() * width;
        return offset;
    }
    std::vector<int64_t> start;
    for (int64_t c = 0; c < l.in; c++)
        for (int64_t h = 0; h < l.kernel_height; h++)
            for (int64_t w = 0; w < l.kernel_width; w++) {
                const int64_t row = h * l.dilation_height / l.stride_height;
                const int64_t phase = h * l.dilation_height % l.stride_height;
                const int64_t plane = (c * l.phases() + phase) * l.kernel_width + w;
                start.push_back((plane * l.plane_height() + row) * l.out_width * width);
            }
    for (int64_t s = 0; s < l.entries(); s++) offset[s] = start[l.cols[s]];
    return offset;
}
