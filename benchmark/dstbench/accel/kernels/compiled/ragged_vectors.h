// Vectors of floats, memory to keep them in, and turning rows into columns.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <utility>

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

// Memory that grows. It begins with a line of the caches: each access across two lines counts twice.
struct Buffer {
    float *memory = nullptr;
    int64_t held = 0;

    Buffer() = default;
    Buffer(const Buffer &) = delete;
    ~Buffer() { std::free(memory); }
};

static float *reserve(Buffer &buffer, int64_t size) {
    constexpr int64_t line = 16;
    size = (size + lanes + line) / line * line;  // a last vector may read over the end
    if (buffer.held < size) {
        std::free(buffer.memory);
        buffer.memory = static_cast<float *>(std::aligned_alloc(line * sizeof(float), size * sizeof(float)));
        buffer.held = size;
    }
    return buffer.memory;
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

// tile[column][row] = from(row)[column], a square.
//
// Of four rounds of exchanges, two are done by loads of quarters, which are merged by any of the ports for
// arithmetic; only one of these can shuffle.
template <class Rows>
static void turn(const Rows &from, Vector *tile) {
#if defined(__AVX512F__)
    const auto low = [](__m512 a, __m512 b) { return _mm512_castps_pd(_mm512_unpacklo_ps(a, b)); };
    const auto high = [](__m512 a, __m512 b) { return _mm512_castps_pd(_mm512_unpackhi_ps(a, b)); };
    const auto first = [](__m512d a, __m512d b) { return Vector(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b))); };
    const auto second = [](__m512d a, __m512d b) { return Vector(_mm512_castpd_ps(_mm512_unpackhi_pd(a, b))); };
    UNROLL for (int q = 0; q < 16; q += 4) {
        __m512 part[4];
        UNROLL for (int i = 0; i < 4; i++) {
            part[i] = _mm512_castps128_ps512(_mm_loadu_ps(from(i) + q));
            part[i] = _mm512_mask_broadcast_f32x4(part[i], 0x00f0, _mm_loadu_ps(from(4 + i) + q));
            part[i] = _mm512_mask_broadcast_f32x4(part[i], 0x0f00, _mm_loadu_ps(from(8 + i) + q));
            part[i] = _mm512_mask_broadcast_f32x4(part[i], 0xf000, _mm_loadu_ps(from(12 + i) + q));
        }
        const __m512d a = low(part[0], part[1]), b = high(part[0], part[1]);
        const __m512d c = low(part[2], part[3]), d = high(part[2], part[3]);
        tile[q] = first(a, c), tile[q + 1] = second(a, c), tile[q + 2] = first(b, d), tile[q + 3] = second(b, d);
    }
#else
    UNROLL for (int i = 0; i < lanes; i++) tile[i] = vector(from(i));
    exchange_all<lanes / 2>(tile);
#endif
}

// to[column * to_stride + row] = from(row)[column];
template <class Rows>
static void transpose(float *to, int64_t to_stride, Rows from, int64_t rows, int64_t columns) {
    for (int64_t c = 0; c < columns; c += lanes) {
        const int64_t width = std::min<int64_t>(lanes, columns - c);
        int64_t r = 0;
        for (; width == lanes && r + lanes <= rows; r += lanes) {
            Vector tile[lanes];
            turn([=](int i) { return from(r + i) + c; }, tile);
            UNROLL for (int i = 0; i < lanes; i++) vector(to + (c + i) * to_stride + r) = tile[i];
        }
        for (; r < rows; r++)
            for (int64_t i = 0; i < width; i++) to[(c + i) * to_stride + r] = from(r)[c + i];
    }
}
