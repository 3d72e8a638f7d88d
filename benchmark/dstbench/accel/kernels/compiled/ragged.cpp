// Products of row groups with ragged column lists, forward and backward, float32.
//
// There is no gather: every kernel walks the offsets of a group's entries into the planes of a chunk, so linear
// layers and all convolutions share it. Images are shared out over threads; nothing is written by two of them.

#include "ragged_chain.h"
#include "ragged_planes.h"
#include "ragged_tiles.h"

#include <omp.h>
#include <sys/mman.h>

// ---- loops over tiles

// All rows of a group: [rows], at to[row] of y, on all points. step(rows): so many are done.
template <class Step>
static void forward_group(const float *x, const int64_t *offset, int64_t count, const float *w, int64_t block,
                          int64_t rows, float *y, const int64_t *to, const float *bias, int64_t points,
                          const Step &step) {
    for (int64_t r = 0; r < rows;) {
        const int64_t size = next(rows - r);
        sized(size, [&](auto known) {
            constexpr int R = known, V = R == 1 ? 4 : wide;  // a single row: groups of one, where all else is overhead
            for (int64_t p = 0; p < points;) {
                const bool whole = points - p > (V - 1) * lanes;
                const auto run = whole ? forward_tile<R, V> : forward_tile<R, 1>;
                run(x + p, offset, count, w + r, block, y + p, to + r, bias + r, points - p);
                p += (whole ? V : 1) * lanes;
            }
        });
        r += size;
        step(r);
    }
}

// A layer's outputs, all groups of rows. step(to, rows, done): so many rows, which are at `to`, and all `done` so far.
template <class Step>
static void forward_planes(const Layer &l, const Plan &plan, const float *planes, const float *w, float *y, int64_t points,
                           const Step &step) {
    for (int64_t g = 0; g < l.groups; g++) {
        const int64_t start = l.ptr[g], first = g * l.block, rows = std::min(l.block, l.out - first);
        int64_t before = 0;
        forward_group(planes, plan.offset.data() + start, l.ptr[g + 1] - start, w + start * l.block, l.block, rows, y,
                      plan.to.data() + first, plan.shift.data() + first, points, [&](int64_t row) {
                          step(plan.to.data() + first + before, row - before, first + row);
                          before = row;
                      });
    }
}

template <class Step>
static void input_group(float *dx, const int64_t *offset, const float *w, int64_t block, const float *const *dy,
                        int64_t count, int64_t points, const Step &step) {
    for (int64_t p = 0; p < points;) {
        broadly((points - p + lanes - 1) / lanes, [&](auto vectors, auto most) {
            for (int64_t k = 0; k < count;) {
                const int64_t size = next(count - k, most);
                sized<most>(size, [&](auto known) {
                    input_tile<known, vectors>(dx + p, offset + k, w + k * block, block, dy, p);
                });
                k += size;
                step(k);
            }
            p += vectors * lanes;
        });
    }
}

template <class Step>
static void weight_group(const Layer &l, const float *x, const int64_t *offset, const float *const *dy,
                         int64_t count, int64_t points, float *dw, bool fresh, Buffer &buffer,
                         const Step &step) {
    if (l.block == 1) {
        for (int64_t k = 0; k < count; k++) dw[k] = (fresh ? 0 : dw[k]) + dot(x + offset[k], dy[0], points);
        return;
    }
    const int64_t stride = l.padded_block();
    float *turned = reserve(buffer, points * stride);
    transpose(turned, stride, [=](int64_t b) { return dy[b]; }, stride, points);
    for (int64_t r = 0; r < stride;) {
        broadly((stride - r) / lanes, [&](auto vectors, auto most) {
            for (int64_t k = 0; k < count;) {
                const int64_t size = next(count - k, most);
                sized<most>(size, [&](auto known) {
                    weight_tile<known, vectors>(x, offset + k, turned + r, stride, points, dw + k * stride + r, fresh);
                });
                k += size;
                step(k);
            }
            r += vectors * lanes;
        });
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
    const Plan plan(l, width, bias);
    const int64_t features = l.out * l.pixels();
    ask_for_huge_pages(y, images * features);
#pragma omp parallel num_threads(threads)
    {
        static thread_local Planes input;
        static thread_local Buffer output[2];
        input.clear(l, width);
        Way way;
        int other = 0;
#pragma omp for schedule(static) nowait
        for (int64_t index = 0; index < (images + width - 1) / width; index++) {
            const Chunk c = chunk(l, index, images, width);
            const float *planes = input.of(l, c, x);
            float *into = width == 1 ? y + c.first * features : reserve(output[other ^= 1], features * width);
            forward_planes(l, plan, planes, w, into, c.points,
                           [&](const int64_t *, int64_t, int64_t done) { way.go(done, l.out); });
            way.go(1, 1);
            if (width > 1) way = {into, y + c.first * features, features, width, c.count};
        }
        way.go(1, 1);
    }
}

// y = what the operations make of x, one after another: [tokens][in] -> [tokens][out of the last]. An addition at the end
// is done on the way out.
extern "C" void chain(const Operation *operations, int64_t count, const float *x, int64_t tokens, int64_t width, float *y,
                      int threads) {
    std::vector<Plan> plans(count);
    int64_t rows = 0;
    for (int64_t i = 0; i < count; i++)
        if (operations[i].kind == LINEAR) {
            plans[i] = Plan(*operations[i].layer, width, operations[i].bias);
            rows += operations[i].out;
        }
    const float *added = operations[count - 1].kind == ADD ? operations[count - 1].other : nullptr;
    const int64_t in = operations[0].in, features = operations[count - 1].out;
    if (added) count--;
    ask_for_huge_pages(y, tokens * features);
#pragma omp parallel num_threads(threads)
    {
        static thread_local Buffer input, operand, stage[2], output[2];
        Way way;
        int other = 0;
#pragma omp for schedule(static) nowait
        for (int64_t index = 0; index < (tokens + width - 1) / width; index++) {
            const Chunk c{index * width, std::min(width, tokens - index * width), width, width};
            const float *planes = interleave(c, x, in, input);
            int64_t before = 0;
            for (int64_t i = 0; i < count; i++) {
                const Operation &o = operations[i];
                float *into = reserve(i == count - 1 ? output[other ^= 1] : stage[i & 1], o.out * width);
                if (o.kind == LINEAR) {
                    forward_planes(*o.layer, plans[i], planes, o.weight, into, width,
                                   [&](const int64_t *to, int64_t size, int64_t done) {
                                       activate(o.activation, into, to, size, width);
                                       way.go(before + done, rows);
                                   });
                    before += o.out;
                } else if (o.kind == LAYER_NORM || o.kind == RMS_NORM) {
                    normalise(planes, o.in, width, o.kind == LAYER_NORM, o.eps, o.weight, o.bias, into);
                } else {
                    combine(o, planes, interleave(c, o.other, o.in, operand), o.in * width, into);
                }
                planes = into;
            }
            way.go(1, 1);
            way = {planes, y + c.first * features, features, width, c.count, added ? added + c.first * features : nullptr};
        }
        way.go(1, 1);
    }
}

// Sums of columns, [rows][columns], added to `to`.
static void add_columns(const float *from, int64_t rows, int64_t columns, float *to) {
    for (int64_t row = 0; row < rows; row++, from += columns)
        for (int64_t c = 0; c < columns; c++) to[c] += from[c];
}

// out = the sums over threads, in their order; out may be the first one's own.
static void sum_up(const std::vector<const float *> &partial, int64_t stride, int64_t rows, int64_t columns, float *out) {
#pragma omp for schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        float *total = out + row * columns;
        for (const float *part : partial) {
            if (!part) continue;
            const float *from = part + row * stride;
            if (part != partial[0])
                for (int64_t c = 0; c < columns; c++) total[c] += from[c];
            else if (from != total)
                std::memcpy(total, from, columns * sizeof(float));
        }
    }
}

// dx, dw, or db may be null; db, the gradient of a bias, is for linear layers. dw: [entries][block]. Sums over images
// are made per thread, then over threads.
extern "C" void backward(const Layer *layer, const float *x, const float *dy, int64_t images, int64_t width,
                         const float *w, float *dx, float *dw, float *db, int threads) {
    const Layer &l = *layer;
    const auto offset = offsets(l, width);
    const int64_t stride = l.block == 1 ? 1 : l.padded_block(), features = l.out * l.pixels();
    if (dx) ask_for_huge_pages(dx, images * l.image());
    std::vector<const float *> partial(threads), shifts(threads);
#pragma omp parallel num_threads(threads)
    {
        static thread_local Planes input;
        static thread_local Buffer gradient, padded, sums[2], folded[2], turned, zero, weights, shift;
        const int me = omp_get_thread_num();
        if (dw) input.clear(l, width);
        float *mine = dw && stride == l.block && !me ? dw : reserve(weights, l.entries() * stride);
        bool fresh = true;  // nothing is in it yet
        partial[me] = mine;
        float *shifted = reserve(shift, l.out);
        std::memset(shifted, 0, l.out * sizeof(float));
        shifts[me] = shifted;
        const float *none = reserve(zero, l.pixels() * width);
        std::memset(zero.memory, 0, l.pixels() * width * sizeof(float));
        std::vector<const float *> rows(l.padded_block());
        Way way;
        int other = 0;
#pragma omp for schedule(static) nowait
        for (int64_t index = 0; index < (images + width - 1) / width; index++) {
            const Chunk c = chunk(l, index, images, width);
            const int64_t run = (c.points + lanes - 1) / lanes * lanes;
            const float *planes = dw ? input.of(l, c, x) : nullptr;
            if (db) add_columns(dy + c.first * features, c.count, features, shifted);
            const float *out = pad(interleave(c, dy, features, gradient), l.out, c.points, run, padded);
            float *into = dx ? reserve(sums[other ^= 1], l.planes() * width) : nullptr;
            if (dx) std::memset(into, 0, l.planes() * width * sizeof(float));
            for (int64_t g = 0; g < l.groups; g++) {
                const int64_t start = l.ptr[g], count = l.ptr[g + 1] - start, all = 2 * l.entries();
                for (int64_t b = 0; b < int64_t(rows.size()); b++) {
                    const int64_t row = g * l.block + b;
                    rows[b] = b < l.block && row < l.out ? out + l.perm[row] * run : none;
                }
                if (dx)
                    input_group(into, offset.data() + start, w + start * l.block, l.block, rows.data(), count, run,
                                [&](int64_t k) { way.go(2 * start + k, all); });
                if (dw)
                    weight_group(l, planes, offset.data() + start, rows.data(), count, c.points, mine + start * stride,
                                 fresh, turned, [&](int64_t k) { way.go(2 * start + count + k, all); });
            }
            fresh = false;
            way.go(1, 1);
            if (!dx) continue;
            if (!l.plain()) {
                float *to = width == 1 ? dx + c.first * l.image() : reserve(folded[other], l.image() * width);
                std::memset(to, 0, l.image() * width * sizeof(float));
                fold(l, width, into, to);
                into = to;
            } else if (width == 1) {
                std::memcpy(dx + c.first * l.image(), into, l.image() * sizeof(float));
            }
            if (width > 1) way = {into, dx + c.first * l.image(), l.image(), width, c.count};
        }
        way.go(1, 1);
        if (dw && fresh) std::memset(mine, 0, l.entries() * stride * sizeof(float));
#pragma omp barrier
        if (dw && (threads > 1 || partial[0] != dw)) sum_up(partial, stride, l.entries(), l.block, dw);
        if (db) sum_up(shifts, l.out, 1, l.out, db);
    }
}
