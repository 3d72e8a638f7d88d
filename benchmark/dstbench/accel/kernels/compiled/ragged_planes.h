// How tensors become the planes that ragged.cpp's kernels read, and back.
//
// A *chunk* is some images whose data stand as planes [in][plane], the chunk's images innermost, so that an entry k
// of the weight, an (in-channel, tap) pair, meets all outputs of the chunk in one run of `points` floats from
// offset[k]. Strides, padding and dilation are in the planes: one copy of the input per tap column and row phase,
// with zeros at the border. A linear layer has one-pixel images.

#pragma once

#include "ragged_vectors.h"

#include <vector>

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

// A chunk on its way from [features][width] to a tensor [images][features], in squares, so that whoever computes the
// next chunk can let it go on meanwhile: one waits for memory, the other doesn't.
struct Way {
    const float *from = nullptr;
    float *to = nullptr;
    int64_t features = 0, width = 0, count = 0;
    const float *added = nullptr;  // to the tensor, laid out as it is, or null
    int64_t done = 0;

    int64_t across() const { return (features + lanes - 1) / lanes; }
    int64_t squares() const { return across() * ((count + lanes - 1) / lanes); }
    int64_t image(int64_t square) const { return square / across() * lanes; }
    int64_t feature(int64_t square) const { return square % across() * lanes; }

    // Be done with `part` of so many parts.
    void go(int64_t part, int64_t parts) {
        constexpr int64_t ahead = 4;  // squares: memory is asked for what will be written, too
        for (const int64_t until = squares() * part / parts; done < until; done++) {
            if (const int64_t then = done + ahead; then < squares()) {
                const float *next = to + image(then) * features + feature(then);
                for (int j = 0; j < lanes; j++) __builtin_prefetch(next + j * features, 1);
            }
            move(image(done), feature(done));
        }
    }

    void move(int64_t image, int64_t feature) const {
        const float *at = from + feature * width + image;
        float *into = to + image * features + feature;
        const float *more = added ? added + image * features + feature : nullptr;
        const auto high = std::min<int64_t>(lanes, count - image), across = std::min<int64_t>(lanes, features - feature);
        if (high < lanes || across < lanes) {
            for (int64_t i = 0; i < high; i++)
                for (int64_t j = 0; j < across; j++)
                    into[i * features + j] = at[j * width + i] + (more ? more[i * features + j] : 0);
            return;
        }
        Vector tile[lanes];
        turn([=](int j) { return at + j * width; }, tile);
        if (more)
            UNROLL for (int j = 0; j < lanes; j++) tile[j] += vector(more + j * features);
        UNROLL for (int j = 0; j < lanes; j++) vector(into + j * features) = tile[j];
    }
};

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
            spread(l, c.width, from, copies.memory);
            return copies.memory;
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
