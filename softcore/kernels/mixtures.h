// mixtures.h: sums of rows under weights, the products of many rows with one, and the choice of the k largest.
//
//   blend    o = sum of w_j x_j over the rows x_j of a matrix, whose columns are the lanes
//   dots     s_j = do . x_j, for sixteen rows at a time
//   choose   the k largest of a row, in descending order, of equals the first
//
// Every sum has one order, which n (of a dot product d) alone decides: eight rows in a tree, the trees of a stretch one
// after the other, stretches in double.
#pragma once
#include "rows.h"

namespace softcore {
namespace {

// ---------------------------------------------------------------- rows of any layout

// A matrix: rows `row` bytes apart, elements of dtype `code` and `column` bytes apart.
struct Matrix { const char *data; ptrdiff_t row, column; int code; };

static constexpr ptrdiff_t WIDTH = 512;  // columns that are summed at once
alignas(64) static const char ZEROS[1024 * sizeof(double)] = {};  // a row for what takes no part

// The storage that can be read as it lies, with accumulators A; or the code of none.
template <class A> INLINE bool readable(int code, ptrdiff_t column) {
    if (code == HALF || code == BFLOAT16) return sizeof(A) == 4 && column == 2;
    return code == (sizeof(A) == 4 ? FLOAT : DOUBLE) && column == (ptrdiff_t)sizeof(A);
}
// A row of results, rounded to dtype `code`.
template <class S, class A> INLINE void put_results_as(char *p, ptrdiff_t stride, const A *a, ptrdiff_t n) {
    ptrdiff_t j = 0;
    if constexpr (std::is_same<A, acc<S>>::value)
        for (; stride == (ptrdiff_t)sizeof(S) && j + lanes<S>() <= n; j += lanes<S>()) store<S>((S *)(p + j * stride), load<A>(a + j));
    for (; j < n; j++) {
        const S value = narrow<S>((acc<S>)a[j]);
        std::memcpy(p + j * stride, &value, sizeof value);
    }
}
template <class A> void put_results(char *p, ptrdiff_t stride, const A *a, ptrdiff_t n, int code) {
    switch (code) {
    case HALF: return put_results_as<half>(p, stride, a, n);
    case BFLOAT16: return put_results_as<bfloat16>(p, stride, a, n);
    case FLOAT: return put_results_as<float>(p, stride, a, n);
    default: return put_results_as<double>(p, stride, a, n);
    }
}

INLINE void zero_doubles(double *p, ptrdiff_t n) { std::memset(p, 0, n * sizeof(double)); }
// How far ahead rows are asked for: so many of them that they make about `bytes`, one at least. Processors with shorter vectors have room
// for fewer lines on their way (4096 x 256 x 64 on a Zen 3: 25 to 19 ms, and the gradients 31 to 28).
static constexpr ptrdiff_t BLENDED_AHEAD = SOFTCORE_VECTOR == 64 ? 4096 : 1024, SPREAD_AHEAD = 2 * BLENDED_AHEAD;
INLINE ptrdiff_t ahead_of(ptrdiff_t row, ptrdiff_t bytes) {
    const ptrdiff_t size = row < 0 ? -row : row;
    return size ? row * std::max(bytes / size, (ptrdiff_t)1) : 0;
}

// ---------------------------------------------------------------- blend

// The sums of up to WIDTH columns: of the stretch at hand, and of those before it.
template <class A> struct Blend {
    alignas(64) A stretch[WIDTH];
    alignas(64) double high[WIDTH], low[WIDTH];
    alignas(64) A gathered[8][WIDTH];
};
static constexpr ptrdiff_t STRETCH = 64;  // rows

// sum += w[0] x[0] + ... + w[7] x[7], of d columns.  `ahead` bytes on lies what is read next.  In strips, row after row: what
// lies together is read together, which the hardware sees coming.
template <class S> __attribute__((noinline)) void add_eight(acc<S> *sum, const char *const *x, const acc<S> *w, ptrdiff_t d, ptrdiff_t ahead) {
    typedef Lanes<S> P;
    constexpr int STRIP = SOFTCORE_VECTOR == 64 ? 4 : SOFTCORE_VECTOR == 32 ? 2 : 1;
    const ptrdiff_t L = lanes<S>();
    const S *const *rows = (const S *const *)x;
    ptrdiff_t j = 0;
    for (; j + STRIP * L <= d; j += STRIP * L) {
        P pair[2][STRIP], four[STRIP], all[STRIP];
        for (int i = 0; i < 8; i += 2) {
            P *to = pair[i / 2 % 2];
            const S *p = rows[i] + j, *q = rows[i + 1] + j;
            const P u = splat<S>(w[i]), v = splat<S>(w[i + 1]);
            for (int l = 0; l < STRIP; l++) {
                prefetch_near((const char *)(p + l * L) + ahead);
                to[l] = load<S>(p + l * L) * u;
            }
            for (int l = 0; l < STRIP; l++) {
                prefetch_near((const char *)(q + l * L) + ahead);
                to[l] = mad(load<S>(q + l * L), v, to[l]);
            }
            if (i == 2) for (int l = 0; l < STRIP; l++) four[l] = pair[0][l] + pair[1][l];
            if (i == 6) for (int l = 0; l < STRIP; l++) all[l] = four[l] + (pair[0][l] + pair[1][l]);
        }
        for (int l = 0; l < STRIP; l++) {
            P t;
            load_pack(sum + j + l * L, &t);
            store_pack(sum + j + l * L, t + all[l]);
        }
    }
    for (; j < d; j += L) {
        auto at = [=](int i) TERM { return load_some<S>(rows[i] + j, d - j, 0); };
        auto two = [=](int i) TERM { return mad(at(i + 1), splat<S>(w[i + 1]), at(i) * splat<S>(w[i])); };
        P t;
        load_pack(sum + j, &t);
        store_pack(sum + j, t + ((two(0) + two(2)) + (two(4) + two(6))));
    }
}
// A sum of doubles that has become infinite has lost nothing that could be told.
template <class A, class D> INLINE void add_on(Sum<D> *sum, D x) {
    const D low = sum->low;
    add<A>(sum, x);
    sum->low = select(sum->low == sum->low, sum->low, low);
}
// What a stretch came to, to what came before.
template <class A> INLINE void close_stretch(const A *stretch, double *high, double *low, ptrdiff_t d) {
    typedef Doubles<A> D;
    for (ptrdiff_t j = 0; j < d; j += lanes<A>()) {
        Sum<D> sum;
        load_pack(high + j, &sum.high);
        load_pack(low + j, &sum.low);
        add_on<A>(&sum, doubles<A>(load<A>(stretch + j)));
        store_pack(high + j, sum.high);
        store_pack(low + j, sum.low);
    }
}
template <class A, class S, bool GATHER> void blend_rows_of(Blend<A> *b, Matrix x, const A *w, const unsigned char *mask, ptrdiff_t n, ptrdiff_t d, ptrdiff_t ahead) {
    for (ptrdiff_t start = 0; start < n; start += STRETCH) {
        const ptrdiff_t end = std::min(n, start + STRETCH);
        std::memset(b->stretch, 0, sizeof(A) * d);
        for (ptrdiff_t j = start; j < end; j += 8) {
            const char *at[8];
            A weight[8];
            bool some = false;
            for (ptrdiff_t i = 0; i < 8; i++) {
                const bool here = j + i < end && (!mask || mask[j + i]);
                at[i] = here ? x.data + (j + i) * x.row : ZEROS;
                weight[i] = here ? w[j + i] : 0;
                some = some || here;
                if (GATHER && here) {
                    gather<A>(b->gathered[i], at[i], x.column, d, x.code);
                    at[i] = (const char *)b->gathered[i];
                }
            }
            if (some) add_eight<S>(b->stretch, at, weight, d, ahead);
        }
        close_stretch<A>(b->stretch, b->high, b->low, d);
    }
}
template <class A> INLINE void empty_blend(Blend<A> *b, ptrdiff_t d) {
    std::memset(b->high, 0, sizeof(double) * d);
    std::memset(b->low, 0, sizeof(double) * d);
    for (ptrdiff_t j = d; j < WIDTH && j % lanes<A>(); j++) b->high[j] = b->low[j] = b->stretch[j] = 0;
}
// The n rows of x, under the weights w, of those that the mask lets take part.
template <class A> void blend_rows(Blend<A> *b, const char *data, ptrdiff_t row, ptrdiff_t column, int code, const A *w, const unsigned char *mask, ptrdiff_t n, ptrdiff_t d, ptrdiff_t ahead) {
    typedef typename std::conditional<sizeof(A) == 4, half, double>::type Half;  // the double core gathers the half types
    typedef typename std::conditional<sizeof(A) == 4, bfloat16, double>::type Brain;
    const Matrix x = {data, row, column, code};
    if (!readable<A>(code, column)) return blend_rows_of<A, A, true>(b, x, w, mask, n, d, 0);
    if (code == HALF) return blend_rows_of<A, Half, false>(b, x, w, mask, n, d, ahead);
    if (code == BFLOAT16) return blend_rows_of<A, Brain, false>(b, x, w, mask, n, d, ahead);
    blend_rows_of<A, A, false>(b, x, w, mask, n, d, ahead);
}
// The sums of a further part of the rows, in order.
template <class A> void merge_blend(Blend<A> *b, const double *high, const double *low, ptrdiff_t d) {
    for (ptrdiff_t j = 0; j < d; j++) {
        Sum<double> sum = {b->high[j], b->low[j]};
        add_on<A>(&sum, high[j]);
        b->high[j] = sum.high, b->low[j] = sum.low + low[j];
    }
}
template <class A> void put_blend(const Blend<A> *b, char *p, ptrdiff_t stride, ptrdiff_t d, int code) {
    A o[WIDTH];
    for (ptrdiff_t j = 0; j < d; j++) o[j] = (A)(b->high[j] + b->low[j]);
    put_results<A>(p, stride, o, d, code);
}
// The logarithm of the sum of exp(scale r) over a row.
template <class A> INLINE double logarithm_of_row(const A *, const State<double> *s, const Mass<double> *mass, double scale) {
    return s->m - s->m == 0 ? scale * s->m + log_of_mass<A>(*mass) : s->m;
}

// ---------------------------------------------------------------- dots

static constexpr ptrdiff_t DOTS = 16;  // rows at a time

// s[i] += the sum of v[i]'s lanes, in the tree of sum_lanes, but in accumulators.
template <class A> INLINE void sum_sixteen(A (*v)[64 / sizeof(A)], double *s) {
    for (ptrdiff_t w = lanes<A>() / 2; w; w /= 2)
        for (ptrdiff_t i = 0; i < DOTS; i++)
            for (ptrdiff_t l = 0; l < w; l++) v[i][l] += v[i][l + w];
    for (ptrdiff_t i = 0; i < DOTS; i++) s[i] += v[i][0];
}
#if SOFTCORE_VECTOR >= 32
template <> INLINE void sum_sixteen<float>(float (*v)[16], double *s) {
    for (int half = 0; half < 2; half++) {
        __m256 c[8];
        turn8([=](int i) TERM { return _mm256_add_ps(_mm256_load_ps(v[8 * half + i]), _mm256_load_ps(v[8 * half + i] + 8)); },
              [&](int i, __m256 x) TERM { c[i] = x; });
        __m256 even = _mm256_add_ps(_mm256_add_ps(c[0], c[4]), _mm256_add_ps(c[2], c[6]));
        __m256 odd = _mm256_add_ps(_mm256_add_ps(c[1], c[5]), _mm256_add_ps(c[3], c[7])), sum = _mm256_add_ps(even, odd);
        double *p = s + 8 * half;
        _mm256_storeu_pd(p, _mm256_add_pd(_mm256_loadu_pd(p), _mm256_cvtps_pd(_mm256_castps256_ps128(sum))));
        _mm256_storeu_pd(p + 4, _mm256_add_pd(_mm256_loadu_pd(p + 4), _mm256_cvtps_pd(_mm256_extractf128_ps(sum, 1))));
    }
}
#endif
// s[i] += x[i] . y for sixteen rows of d elements, up to a tile; each in the order of sum_tile.
template <class S> __attribute__((noinline)) void dot_sixteen(const char *const *x, const acc<S> *y, ptrdiff_t d, double *s, ptrdiff_t ahead) {
    typedef acc<S> A;
    typedef Lanes<S> P;
    constexpr int ROWS = SOFTCORE_VECTOR == 64 ? 4 : 1;  // y is read once for as many as leave their sums in registers
    const ptrdiff_t L = lanes<S>();
    alignas(64) A v[DOTS][64 / sizeof(A)];
    for (int r = 0; r < DOTS; r += ROWS) {
        P e[ROWS][4];
        for (int i = 0; i < ROWS; i++)
            for (int a = 0; a < 4; a++) e[i][a] = constant<P>(0);
        ptrdiff_t j = 0;
        for (; j + 4 * L <= d; j += 4 * L)
            for (int a = 0; a < 4; a++) {
                const P b = load<A>(y + j + a * L);
                for (int i = 0; i < ROWS; i++) {
                    const S *p = (const S *)x[r + i] + j + a * L;
                    prefetch((const char *)p + ahead);
                    e[i][a] = mad(load<S>(p), b, e[i][a]);
                }
            }
        for (int a = 0; a < 3; a++, j += L)
            if (j < d) {
                const P b = load_some<A>(y + j, d - j, 0);
                for (int i = 0; i < ROWS; i++) e[i][a] = mad(load_some<S>((const S *)x[r + i] + j, d - j, 0), b, e[i][a]);
            }
        if (j < d) {
            const P b = load_some<A>(y + j, d - j, 0);
            for (int i = 0; i < ROWS; i++) e[i][3] = mad(load_some<S>((const S *)x[r + i] + j, d - j, 0), b, e[i][3]);
        }
        for (int i = 0; i < ROWS; i++) store_pack(v[r + i], tree4(e[i]));
    }
    sum_sixteen<A>(v, s);
}
template <class A> void dot_rows(const char *const *x, int code, const A *y, ptrdiff_t d, double *s, ptrdiff_t ahead) {
    typedef typename std::conditional<sizeof(A) == 4, half, double>::type Half;
    typedef typename std::conditional<sizeof(A) == 4, bfloat16, double>::type Brain;
    if (code == HALF) return dot_sixteen<Half>(x, y, d, s, ahead);
    if (code == BFLOAT16) return dot_sixteen<Brain>(x, y, d, s, ahead);
    dot_sixteen<A>(x, y, d, s, ahead);
}
// dx_j = w_j y for rows of d elements.  Rows that follow each other are written past the cache as one, line by line: `y` goes
// on from its beginning for another Lanes, so that a line which two rows share needs no more than two weights.
template <class S> void scale_rows(S *dx, ptrdiff_t row, const acc<S> *y, bool goes_on, const acc<S> *w, const unsigned char *mask, ptrdiff_t rows, ptrdiff_t d, Streamed<S> *streamed) {
    typedef Lanes<S> P;
    const ptrdiff_t L = lanes<S>();
    auto at = [=](ptrdiff_t i) TERM { return (S *)((char *)dx + i * row); };
    auto part = [=](const acc<S> *from, acc<S> weight) TERM {
        const P v = splat<S>(weight);
        return [=](ptrdiff_t j, ptrdiff_t m) TERM { return load_some<acc<S>>(from + j, m, 0) * v; };
    };
    if (!streamed || mask || !goes_on || d < L || row != d * (ptrdiff_t)sizeof(S) || to_alignment(dx) < 0) {
        for (ptrdiff_t i = 0; i < rows; i++) {
            const bool here = !mask || mask[i];
            write_row<S>(at(i), d, streamed, part(here ? y : (const acc<S> *)ZEROS, here ? w[i] : 0));
        }
        return;
    }
    Writing now = begin_row(dx, d, streamed, part(y, w[0]));
    for (ptrdiff_t i = 0; i + 1 < rows; i++) {
        const P v = splat<S>(w[i]);
        for (; now.j + L <= d; now.j += L) stream<S>(at(i) + now.j, load<acc<S>>(y + now.j) * v);
        if (now.j < d) {
            stream<S>(at(i) + now.j, load<acc<S>>(y + now.j) * select(first<S>(d - now.j), v, splat<S>(w[i + 1])));
            now.j += L;
        }
        now.j -= d;
    }
    end_row(at(rows - 1), d, streamed, now, part(y, w[rows - 1]));
}
// A line that two rows share, of whatever storage.
struct AnyStreamed { Streamed<half> h; Streamed<bfloat16> b; Streamed<float> f; Streamed<double> d; };
INLINE void finish_lines(AnyStreamed *s) { finish_line(&s->h); finish_line(&s->b); finish_line(&s->f); finish_line(&s->d); }

// One chunk of rows of the backward.  s[j] = do . x_j; dx_j = w_j do where dx is given.  Returns the sum of w_j s_j.
struct GradientRows {
    Matrix x, y, dx;  // y is do, a matrix of one row
    bool plain;       // dx may be written as it lies
    ptrdiff_t d, ahead;
};
template <class A> void gradient_rows_of(const GradientRows *g, const A *w, const unsigned char *mask, ptrdiff_t n, A *s, AnyStreamed *streamed, bool past) {
    constexpr ptrdiff_t most = TILE<A>();
    alignas(64) A room[DOTS][most], y_room[most + 64 / sizeof(A)];
    const bool own_y = readable<A>(g->y.code, g->y.column) && g->y.code == (sizeof(A) == 4 ? FLOAT : DOUBLE), whole = g->d <= most;
    if (whole) {
        gather<A>(y_room, g->y.data, g->y.column, g->d, g->y.code);
        std::memcpy(y_room + g->d, y_room, std::min((ptrdiff_t)sizeof(A) * g->d, (ptrdiff_t)64));
    }
    const bool read = readable<A>(g->x.code, g->x.column);
    const int code = read ? g->x.code : sizeof(A) == 4 ? FLOAT : DOUBLE;
    for (ptrdiff_t j = 0; j < n; j += DOTS) {
        const ptrdiff_t rows = std::min(DOTS, n - j);
        double sums[DOTS] = {};
        for (ptrdiff_t c = 0; c < g->d; c += most) {
            const ptrdiff_t d = std::min(most, g->d - c);
            const A *y = whole || !own_y ? y_room : (const A *)g->y.data + c;
            if (!whole && !own_y) gather<A>(y_room, g->y.data + c * g->y.column, g->y.column, d, g->y.code);
            const char *at[DOTS];
            for (ptrdiff_t i = 0; i < DOTS; i++) {
                at[i] = ZEROS;
                if (i >= rows || (mask && !mask[j + i])) continue;
                at[i] = g->x.data + (j + i) * g->x.row + c * g->x.column;
                if (read) continue;
                gather<A>(room[i], at[i], g->x.column, d, g->x.code);
                at[i] = (const char *)room[i];
            }
            dot_rows<A>(at, code, y, d, sums, g->ahead);
            if (!g->dx.data) continue;
            char *p = (char *)g->dx.data + j * g->dx.row + c * g->dx.column;
            const A *weight = w + j;
            const unsigned char *some = mask ? mask + j : nullptr;
            auto scale = [&](auto *to, auto *line) TERM { scale_rows(to, g->dx.row, y, whole, weight, some, rows, d, past ? line : nullptr); };
            if (!g->plain) {
                for (ptrdiff_t i = 0; i < rows; i++) {
                    const bool here = !mask || mask[j + i];
                    for (ptrdiff_t l = 0; l < d; l++) room[0][l] = here ? weight[i] * y[l] : 0;
                    put_results<A>(p + i * g->dx.row, g->dx.column, room[0], d, g->dx.code);
                }
            } else if constexpr (sizeof(A) == 8) {
                scale((double *)p, &streamed->d);
            } else if (g->dx.code == FLOAT) {
                scale((float *)p, &streamed->f);
            } else if (g->dx.code == HALF) {
                scale((half *)p, &streamed->h);
            } else {
                scale((bfloat16 *)p, &streamed->b);
            }
        }
        for (ptrdiff_t i = 0; i < rows; i++) s[j + i] = !mask || mask[j + i] ? (A)sums[i] : 0;
    }
}
// The sum of w_j s_j, in eight lanes.
template <class A> double weighted_total(const A *w, const A *s, ptrdiff_t n) {
    double t[8] = {};
    ptrdiff_t j = 0;
    for (; j + 8 <= n; j += 8)
        for (int l = 0; l < 8; l++) t[l] += (double)w[j + l] * (double)s[j + l];
    for (int l = 0; j < n; j++, l++) t[l] += (double)w[j] * (double)s[j];
    return ((t[0] + t[4]) + (t[2] + t[6])) + ((t[1] + t[5]) + (t[3] + t[7]));
}
// dr_j = scale w_j (s_j - total), added to `sum` where given, or written over s.
template <class A> void gradient_of_weights(const A *w, A *s, const unsigned char *mask, ptrdiff_t n, double total, double scale, double *sum) {
    for (ptrdiff_t j = 0; j < n; j++) {
        double g = scale * ((double)w[j] * ((double)s[j] - total));
        if (mask && !mask[j]) g = 0;
        if (sum) sum[j] += g; else s[j] = (A)g;
    }
}

// ---------------------------------------------------------------- spread

// The gradient of an x that many items share: sums of w_gj do_g over the items g, for a block of rows j and columns.  They
// are summed as `blend` sums rows: eight in a tree, the trees of a stretch one after the other, stretches in double.
static constexpr ptrdiff_t SPREAD = 4096, SPREAD_ROWS = 512;
template <class A> struct Spread {
    alignas(64) A stretch[SPREAD];
    alignas(64) double high[SPREAD], low[SPREAD];
    alignas(64) A gathered[8][WIDTH];
    A weight[8][SPREAD_ROWS];
    unsigned char mask[8][SPREAD_ROWS];
    const char *y[8];
};
template <class A> INLINE ptrdiff_t rows_to_spread(const A *, ptrdiff_t d) { return std::min(SPREAD_ROWS, SPREAD / whole_lanes<A>(d)); }
template <class A> INLINE unsigned char *spread_mask(Spread<A> *b, ptrdiff_t i) { return b->mask[i]; }
template <class A> INLINE void set_weights(Spread<A> *b, ptrdiff_t i, const A *w, ptrdiff_t n) { std::memcpy(b->weight[i], w, n * sizeof(A)); }
template <class A> void empty_spread(Spread<A> *b) {
    std::memset(b->stretch, 0, sizeof b->stretch);
    std::memset(b->high, 0, sizeof b->high);
    std::memset(b->low, 0, sizeof b->low);
}
// The eight items whose weights, mask and y are in place; `count` of them are there.
template <class A> void spread_eight(Spread<A> *b, ptrdiff_t count, ptrdiff_t column, int code, bool masked, ptrdiff_t rows, ptrdiff_t d) {
    const ptrdiff_t step = whole_lanes<A>(d);
    for (ptrdiff_t i = 0; i < count; i++)
        if (code != (sizeof(A) == 4 ? FLOAT : DOUBLE) || column != (ptrdiff_t)sizeof(A)) {
            gather<A>(b->gathered[i], b->y[i], column, d, code);
            b->y[i] = (const char *)b->gathered[i];
        }
    for (ptrdiff_t j = 0; j < rows; j++) {
        const char *at[8];
        A weight[8];
        for (ptrdiff_t i = 0; i < 8; i++) {
            const bool here = i < count && (!masked || b->mask[i][j]);
            at[i] = here ? b->y[i] : ZEROS;
            weight[i] = here ? b->weight[i][j] : 0;
        }
        add_eight<A>(b->stretch + j * step, at, weight, d, 0);
    }
}
template <class A> void close_spread(Spread<A> *b, ptrdiff_t rows, ptrdiff_t d) {
    close_stretch<A>(b->stretch, b->high, b->low, rows * whole_lanes<A>(d));
    std::memset(b->stretch, 0, sizeof b->stretch);
}
template <class A> void put_spread(const Spread<A> *b, char *p, ptrdiff_t row, ptrdiff_t column, ptrdiff_t rows, ptrdiff_t d, int code) {
    A dx[WIDTH];
    for (ptrdiff_t j = 0; j < rows; j++) {
        const double *high = b->high + j * whole_lanes<A>(d), *low = b->low + j * whole_lanes<A>(d);
        for (ptrdiff_t c = 0; c < d; c++) dx[c] = (A)(high[c] + low[c]);
        put_results<A>(p + j * row, column, dx, d, code);
    }
}

// ---------------------------------------------------------------- choose

// A key is an integer that orders as its element does, with NaN above all and the two zeros equal.
template <class K> using Keys = Pack<K, 64 / SOFTCORE_VECTOR>;
template <class S> INLINE Integers<S> keys_of(Lanes<S> x) {
    typedef bits_t<acc<S>> K;
    const Integers<S> most = whole<S>(std::numeric_limits<K>::max());
    const Integers<S> b = as<K>(x + constant<Lanes<S>>(0));  // -0 becomes 0
    return select(x != x, most, select(b < whole<S>(0), most - b, b));
}
template <class S> INLINE void keys_of_tile(bits_t<acc<S>> *key, const S *x, ptrdiff_t n) {
    const ptrdiff_t L = lanes<S>();
    for (ptrdiff_t j = 0; j < n; j += L) store_pack(key + j, keys_of<S>(load_some<S>(x + j, n - j, -INFINITY)));
}
static constexpr ptrdiff_t KEYS = 1024;  // at a time
INLINE bool integral(int code) { return (code & ~SWAPPED) >= BOOL; }
INLINE void keys_of_row(int32_t *key, const char *p, ptrdiff_t stride, ptrdiff_t n, int code) {
    float room[KEYS];
    if (code == FLOAT && stride == 4) return keys_of_tile<float>(key, (const float *)p, n);
    if (code == HALF && stride == 2) return keys_of_tile<half>(key, (const half *)p, n);
    if (code == BFLOAT16 && stride == 2) return keys_of_tile<bfloat16>(key, (const bfloat16 *)p, n);
    gather<float>(room, p, stride, n, code);
    keys_of_tile<float>(key, room, n);
}
INLINE void keys_of_row(int64_t *key, const char *p, ptrdiff_t stride, ptrdiff_t n, int code) {
    double room[KEYS];
    if (integral(code)) {
        long long *whole = (long long *)room;
        gather<long long>(whole, p, stride, n, code);
        const uint64_t flip = (code & ~SWAPPED) == UINT64 ? (uint64_t)1 << 63 : 0;
        for (ptrdiff_t j = 0; j < n; j++) key[j] = (int64_t)((uint64_t)whole[j] ^ flip);
        return;
    }
    if (code == DOUBLE && stride == 8) return keys_of_tile<double>(key, (const double *)p, n);
    gather<double>(room, p, stride, n, code);
    keys_of_tile<double>(key, room, n);
}
template <class K> INLINE Keys<K> load_keys(const K *p) { Keys<K> x; load_pack(p, &x); return x; }
template <class K> INLINE Keys<K> every_key(K a) { Keys<K> p; spread(a, &p); return p; }

// The k largest of up to KEYS, one after the other, where no key is the lowest of all: that is what one becomes once chosen.
template <class K> INLINE void choose_few(K *key, ptrdiff_t n, ptrdiff_t k, long long *index) {
    const ptrdiff_t L = 64 / sizeof(K), groups = (n + L - 1) / L;
    const K none = std::numeric_limits<K>::min();
    alignas(64) static const K COUNTING[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const Keys<K> counting = load_keys(COUNTING);
    for (ptrdiff_t j = n; j < groups * L; j++) key[j] = none;
    for (ptrdiff_t i = 0; i < k; i++) {
        Keys<K> top = load_keys(key);
        for (ptrdiff_t g = 1; g < groups; g++) top = greater(top, load_keys(key + g * L));
        const Keys<K> wanted = every_key<K>(largest_of(top));
        ptrdiff_t at = 0;
        for (ptrdiff_t g = groups - 1; g >= 0; g--) {  // without a branch that could be guessed wrong
            const uint64_t set = bytes_set(load_keys(key + g * L) == wanted);
            at = set ? g * L + __builtin_ctzll(set) / (ptrdiff_t)sizeof(K) : at;
        }
        index[i] = at;
        if (i + 1 == k) return;
        for (ptrdiff_t g = 0; g < groups; g++)  // a store of one key would hold up the loads of sixteen
            store_pack(key + g * L, select(counting == every_key<K>((K)(at - g * L)), every_key<K>(none), load_keys(key + g * L)));
    }
}
// Any number of any keys.  An entry is an integer twice as wide: it orders as its key, and of equal keys the first place is the larger.
template <class K> struct EntryOf { typedef int64_t type; };
template <> struct EntryOf<int64_t> { typedef __int128 type; };
template <class K> using Entry = typename EntryOf<K>::type;
template <class K> INLINE Entry<K> entry_of(K key, ptrdiff_t place) {
    const int bits = 8 * sizeof(K);
    return (Entry<K>)key * ((Entry<K>)1 << bits) + (std::make_unsigned_t<K>)~place;
}
template <class K> INLINE long long place_of_entry(Entry<K> e) { return (long long)(std::make_unsigned_t<K>)~e; }
// How many entries a choice of k of n needs room for: those chosen so far, and as many again, several times, that may replace them.
INLINE ptrdiff_t entries_of_choice(ptrdiff_t n, ptrdiff_t k) { return std::min<ptrdiff_t>(n, 4 * k + 64) + 16; }
// What may be among the k largest is kept, and the largest of that told apart whenever the room is full: a stretch in ascending order, where
// each element is the largest so far, costs no more than a few comparisons of each.
template <class K> INLINE void choose_many(K *key, const char *p, ptrdiff_t stride, ptrdiff_t n, int code, ptrdiff_t k, Entry<K> *kept, long long *index) {
    const ptrdiff_t L = 64 / sizeof(K), most = entries_of_choice(n, k) - L;
    const auto larger = [](Entry<K> a, Entry<K> b) { return a > b; };
    ptrdiff_t count = 0;
    K least = std::numeric_limits<K>::min();  // of the chosen, once there are k
    bool chosen = false;
    for (ptrdiff_t start = 0; start < n; start += KEYS) {
        const ptrdiff_t m = std::min(KEYS, n - start);
        keys_of_row(key, p + start * stride, stride, m, code);
        for (ptrdiff_t j = 0; j < m; j += L) {
            if (count > most) {
                std::nth_element(kept, kept + (k - 1), kept + count, larger);
                count = k, chosen = true;
                least = (K)(kept[k - 1] >> 8 * sizeof(K));
            }
            const ptrdiff_t here = std::min(L, m - j);
            if (chosen && here == L && !any(load_keys(key + j) > every_key<K>(least))) continue;  // an equal one comes later, and loses
            for (ptrdiff_t i = j; i < j + here; i++) {
                kept[count] = entry_of<K>(key[i], start + i);
                count += !chosen || key[i] > least;
            }
        }
    }
    if (count > k) std::nth_element(kept, kept + (k - 1), kept + count, larger);
    std::sort(kept, kept + k, larger);
    for (ptrdiff_t i = 0; i < k; i++) index[i] = place_of_entry<K>(kept[i]);
}
template <class K> INLINE void choose_by(const char *p, ptrdiff_t stride, ptrdiff_t n, int code, ptrdiff_t k, char *kept, long long *index) {
    alignas(64) K key[KEYS];
    const bool all_taken = (code & ~SWAPPED) == INT64 || (code & ~SWAPPED) == UINT64;  // no key is left to mean none
    if (k > 8 || n > KEYS || all_taken) return choose_many<K>(key, p, stride, n, code, k, (Entry<K> *)kept, index);
    keys_of_row(key, p, stride, n, code);
    choose_few<K>(key, n, k, index);
}
// The indices of the k largest of a row, 0 < k <= n.
enum { ENTRY_BYTES = sizeof(Entry<int64_t>) };
INLINE void choose_row(const char *p, ptrdiff_t stride, ptrdiff_t n, int code, ptrdiff_t k, char *kept, long long *index) {
    const int type = code & ~SWAPPED;
    if ((type == HALF || type == BFLOAT16 || type == FLOAT) && n <= INT32_MAX) choose_by<int32_t>(p, stride, n, code, k, kept, index);
    else choose_by<int64_t>(p, stride, n, code, k, kept, index);
}
// One element, in another place and dtype.
INLINE void copy_as(char *to, int code_to, const char *from, int code_from) {
    if (code_to == code_from && code_to == FLOAT) { std::memcpy(to, from, 4); return; }
    switch (code_to) {
    case HALF: { half v; gather<half>(&v, from, 0, 1, code_from); std::memcpy(to, &v, sizeof v); return; }
    case BFLOAT16: { bfloat16 v; gather<bfloat16>(&v, from, 0, 1, code_from); std::memcpy(to, &v, sizeof v); return; }
    case FLOAT: { float v; gather<float>(&v, from, 0, 1, code_from); std::memcpy(to, &v, sizeof v); return; }
    default: { double v; gather<double>(&v, from, 0, 1, code_from); std::memcpy(to, &v, sizeof v); return; }
    }
}
// The gradient of a choice, for the elements start to start + n of a row: g where they were chosen, else 0; or, with y, the
// softmax over all of them, y (g - total).
template <class A> void scatter_chosen(A *dr, ptrdiff_t start, ptrdiff_t n, const A *g, const long long *index, ptrdiff_t k, const A *y, double total) {
    std::memset(dr, 0, n * sizeof(A));
    for (ptrdiff_t i = 0; i < k; i++)
        if (index[i] >= start && index[i] < start + n) dr[index[i] - start] += g[i];
    if (y) for (ptrdiff_t j = 0; j < n; j++) dr[j] = (A)((double)y[j] * ((double)dr[j] - total));
}
template <class A> double dot_few(const A *a, const A *b, ptrdiff_t n) {
    double sum = 0;
    for (ptrdiff_t i = 0; i < n; i++) sum += (double)a[i] * (double)b[i];
    return sum;
}
template <class A> void gradient_few(A *g, const A *w, const A *dw, double total, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i++) g[i] = (A)((double)w[i] * ((double)dw[i] - total));
}
// The same of rows side by side, dw in g.
template <class A> void gradient_of_chosen(A *g, const A *w, ptrdiff_t width, ptrdiff_t k) {
    typedef Doubles<A> D;
    for (ptrdiff_t c = 0; c < width; c += lanes<A>()) {
        const auto share = [=](ptrdiff_t i) TERM { return doubles<A>(load<A>(w + i * width + c)); };
        const auto slope = [=](ptrdiff_t i) TERM { return doubles<A>(load<A>(g + i * width + c)); };
        D sum = constant<D>(0);
        for (ptrdiff_t i = 0; i < k; i++) sum = sum + share(i) * slope(i);
        for (ptrdiff_t i = 0; i < k; i++) store<A>(g + i * width + c, lanes_of<A>(share(i) * (slope(i) - sum)));
    }
}

}  // namespace
}  // namespace softcore
