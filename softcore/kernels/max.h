// max.h: maxima of tiles and of columns, their places, and the gradients that go there.
#pragma once
#include "elementwise.h"

namespace softcore {
namespace {

// ---------------------------------------------------------------- tiles

template <class S> struct Best { acc<S> m; int64_t index; bool found, nan; };

template <class S> INLINE acc<S> not_a_number(const S *) { return std::numeric_limits<acc<S>>::quiet_NaN(); }
template <class S> INLINE acc<S> value_at(const S *p) { return widen<S>(*p); }
template <class S> INLINE acc<S> larger_of(acc<S> a, const Best<S> *s) {
    if (!s->found || a > s->m || (a == s->m && std::signbit((double)s->m))) return a;
    return s->m;
}
template <class S> INLINE bool alike_one(acc<S> a, acc<S> b) { return a == b || (a != a && b != b); }
template <class S> ptrdiff_t count_alike(const S *x, ptrdiff_t n, acc<S> v, const unsigned char *mask) {
    ptrdiff_t count = 0;
    for (ptrdiff_t j = 0; j < n; j++) count += (!mask || mask[j]) && alike_one<S>(widen<S>(x[j]), v);
    return count;
}
template <class S> S *put_where_alike(S *y, const S *x, ptrdiff_t n, acc<S> v, S dy) {
    const S zero = narrow<S>(0);
    for (ptrdiff_t j = 0; j < n; j++) y[j] = alike_one<S>(widen<S>(x[j]), v) ? dy : zero;
    return y;
}
template <class S> INLINE void share(S *dy, ptrdiff_t count) { *dy = narrow<S>((acc<S>)(widen<S>(*dy) / (acc<S>)count)); }
template <class S> __attribute__((noinline)) acc<S> tile_max(const S *x, ptrdiff_t n, int *nan) {
    bool bad = false;
    acc<S> m = largest_of_tile<S, false, false>(x, n, &bad);
    if (__builtin_expect(bad, 0)) m = largest_of_tile<S, false, true>(x, n, &bad);
    if (m == 0 && !bad && !std::is_integral<acc<S>>::value) m = largest_of_tile<S, true, true>(x, n, &bad);  // which zero?
    *nan = bad;
    return m;
}
// Where the first (or LAST) of the largest is, or the first NaN.  Each lane remembers which four Lanes its largest came from,
// numbered so that of equals the wanted one has the larger number; only those four are searched.  n is no more than a frame, whose
// fours the smallest lane can count.  A NaN makes the sum NaN; so may infinities and an overflow, and then it is looked for, and
// *nan is set if it is there.
template <class S, bool LAST> __attribute__((noinline)) ptrdiff_t index_of_largest(const S *x, ptrdiff_t n, int *nan) {
    typedef Lanes<S> P;
    typedef bits_t<acc<S>> I;
    const ptrdiff_t L = lanes<S>(), start = to_line(x);
    const Mask<S> step = whole<S>(LAST ? 1 : -1);
    P a = first_lanes(x, n), sum = a;
    Mask<S> number = whole<S>(0), best = number;
    auto meet = [&](P v) TERM {
        Mask<S> hit = LAST ? v >= a : v > a;
        number = number + step;
        a = select(hit, v, a);
        best = select(hit, number, best);
    };
    ptrdiff_t j = start;
    for (; j + 4 * L <= n; j += 4 * L) {
        ask_for_fours(x + j);
        P u = load<S>(x + j), v = load<S>(x + j + L), w = load<S>(x + j + 2 * L), z = load<S>(x + j + 3 * L);
        sum = sum + ((u + v) + (w + z));
        meet(greater(greater(u, v), greater(w, z)));
    }
    if (n > L && j < n) {
        P v = load<S>(x + n - L);
        sum = sum + v;
        for (; j + L <= n; j += L) {
            P u = load<S>(x + j);
            sum = sum + u;
            v = greater(u, v);
        }
        meet(v);
    }
    if (__builtin_expect(any(sum != sum), 0)) {
        const ptrdiff_t i = find<S>(x, n, not_a_number(x), false, nullptr);
        *nan = i >= 0;
        if (i >= 0) return i;
    }
    const acc<S> m = largest<S>(a);
    if (n < 4 * L) return find<S>(x, n, m, LAST, nullptr);
    const Mask<S> among = select(a == splat<S>(m), best, whole<S>(std::numeric_limits<I>::min()));
    const ptrdiff_t fours = LAST ? largest_of(among) : -largest_of(among);
    const ptrdiff_t from = std::min(fours ? start + (fours - 1) * 4 * L : 0, n - 4 * L);
    return from + find_in_four<S, LAST>(x + from, m);
}
template <class S> INLINE ptrdiff_t tile_argmax(const S *x, ptrdiff_t n, bool last, int *nan) {
    return last ? index_of_largest<S, true>(x, n, nan) : index_of_largest<S, false>(x, n, nan);
}

// ---------------------------------------------------------------- columns

// Columns, up to COLUMNS Lanes of them: where their Lanes begin, aligned but for the two ends, which are met twice.
static constexpr ptrdiff_t COLUMNS = 64;
template <class S> INLINE ptrdiff_t lanes_of_columns(const S *x, ptrdiff_t width, ptrdiff_t *at) {
    const ptrdiff_t L = lanes<S>();
    ptrdiff_t groups = 0;
    at[groups++] = 0;
    for (ptrdiff_t i = to_line(x); i + L <= width; i += L) at[groups++] = i;
    if (at[groups - 1] + L < width) at[groups++] = width - L;
    return groups;
}
// Four rows at a time, the last of them as often as it takes to make four.  Whether there was no NaN, or WITH_NAN.
template <class S, bool WITH_NAN> __attribute__((noinline)) bool max_columns_of(const S *x, ptrdiff_t stride, ptrdiff_t n, ptrdiff_t width, S *y) {
    typedef Lanes<S> P;
    ptrdiff_t at[COLUMNS + 1], groups = lanes_of_columns(x, width, at);
    P m[COLUMNS + 1];
    Mask<S> bad = whole<S>(0);
    auto larger = [](P u, P v) TERM { return WITH_NAN ? select(u != u, u, select(v != v, v, max(u, v))) : max(u, v); };
    for (ptrdiff_t g = 0; g < groups; g++) m[g] = load_some<S>(x + at[g], width, 0);
    for (ptrdiff_t j = 0; j < n; j += 4) {
        const S *p = row_at(x, stride, j), *q = n - j > 1 ? row_at(p, stride, 1) : p;
        const S *r = n - j > 2 ? row_at(q, stride, 1) : q, *s = n - j > 3 ? row_at(r, stride, 1) : r;
        for (ptrdiff_t g = 0; g < groups; g++) {
            for (ptrdiff_t i = 4; i < 8; i++) prefetch(row_at(p, stride, i) + at[g]);  // other pages, where no hardware looks ahead
            P u = load_some<S>(p + at[g], width, 0), v = load_some<S>(q + at[g], width, 0);
            P w = load_some<S>(r + at[g], width, 0), z = load_some<S>(s + at[g], width, 0);
            if (!WITH_NAN) bad = bad | unordered(u, v) | unordered(w, z);
            m[g] = larger(larger(m[g], larger(u, v)), larger(w, z));
        }
    }
    if (any(bad)) return false;
    for (ptrdiff_t g = 0; g < groups; g++) store_some<S>(y + at[g], WITH_NAN ? select(m[g] != m[g], splat<S>(not_a_number<S>(y)), m[g]) : m[g], width);
    return true;
}
template <class S> INLINE void max_wide_columns(const S *x, ptrdiff_t stride, ptrdiff_t n, ptrdiff_t width, S *y) {
    if (!max_columns_of<S, false>(x, stride, n, width, y)) max_columns_of<S, true>(x, stride, n, width, y);
}
// Few columns leave most of their Lanes empty, or meet them twice.  Where nothing lies between rows, as many of them as make some Lanes are taken as one
// wide row: how many.  What comes of it is met again, a number at a time, and so is what comes of the rows that are left over.
static constexpr ptrdiff_t JOINED = 8;  // Lanes
template <class S> INLINE ptrdiff_t rows_as_one(ptrdiff_t stride, ptrdiff_t n, ptrdiff_t width) {
    const ptrdiff_t most = std::min(JOINED * lanes<S>() / width, n / 4);
    return stride == width * (ptrdiff_t)sizeof(S) && width < 4 * lanes<S>() && most > 1 ? most : 1;
}
template <class S> INLINE void max_columns(const S *x, ptrdiff_t stride, ptrdiff_t n, ptrdiff_t width, S *y) {
    const ptrdiff_t as_one = rows_as_one<S>(stride, n, width), joined = n / as_one * as_one;
    if (as_one == 1) return max_wide_columns(x, stride, n, width, y);
    S found[2 * JOINED * lanes<S>()];
    ptrdiff_t count = as_one * width;
    max_wide_columns(x, as_one * stride, n / as_one, count, found);
    if (n > joined) {
        max_wide_columns(row_at(x, stride, joined), stride, n - joined, width, found + count);
        count += width;
    }
    for (ptrdiff_t c = 0; c < width; c++) {
        acc<S> m = widen<S>(found[c]);
        for (ptrdiff_t i = c + width; i < count; i += width) {
            const acc<S> v = widen<S>(found[i]);
            if (v > m || v != v || (v == m && std::signbit((double)m))) m = v;
        }
        y[c] = narrow<S>(m);
    }
}
// The running maximum with the row it came from, counted in lanes and so for no more rows than a lane can count.  Whether there was
// no NaN, or WITH_NAN.
template <class S, bool LAST, bool WITH_NAN> __attribute__((noinline)) bool argmax_columns_of(const S *x, ptrdiff_t stride, ptrdiff_t n, ptrdiff_t width, S *y, long long *index) {
    typedef bits_t<acc<S>> I;
    const ptrdiff_t L = lanes<S>(), most = sizeof(I) == 1 ? std::numeric_limits<I>::max() : TILE<S>();
    ptrdiff_t at[COLUMNS + 1], groups = lanes_of_columns(x, width, at);
    Lanes<S> m[COLUMNS + 1];
    Mask<S> where[COLUMNS + 1], bad = whole<S>(0);
    for (ptrdiff_t g = 0; g < groups; g++) m[g] = load_some<S>(x + at[g], width, 0);
    std::memset(index, 0, width * sizeof *index);
    for (ptrdiff_t j = 0; j < n;) {
        const ptrdiff_t base = j, end = n - j < most ? n : j + most;
        for (ptrdiff_t g = 0; g < groups; g++) where[g] = whole<S>(-1);
        while (j < end) {
            const ptrdiff_t rows = end - j < 4 ? 1 : 4;
            for (ptrdiff_t g = 0; g < groups; g++) {
                const S *p = row_at(x, stride, j) + at[g];
                Lanes<S> a = m[g];
                Mask<S> best = where[g], row = whole<S>((I)(j - base));
                auto take = [&](ptrdiff_t i) TERM {
                    prefetch(row_at(p, stride, i + 4));
                    return load_some<S>(row_at(p, stride, i), width, 0);
                };
                auto meet = [&](Lanes<S> v) TERM {
                    Mask<S> hit = LAST ? v >= a : v > a;
                    if (WITH_NAN) hit = hit | ((v != v) & (a == a));  // of NaNs the first wins
                    a = select(hit, v, a);
                    best = select(hit, row, best);
                    row = row + whole<S>(1);
                };
                const Lanes<S> u = take(0);
                if (rows == 4) {
                    const Lanes<S> v = take(1), w = take(2), z = take(3);
                    if (!WITH_NAN) bad = bad | unordered(u, v) | unordered(w, z);
                    meet(u), meet(v), meet(w), meet(z);
                } else {
                    if (!WITH_NAN) bad = bad | (u != u);
                    meet(u);
                }
                m[g] = a;
                where[g] = best;
            }
            j += rows;
        }
        if (any(bad)) return false;
        for (ptrdiff_t g = 0; g < groups; g++) {
            I a[lanes<S>()];
            store_pack(a, where[g]);
            for (ptrdiff_t i = 0; i < L && i < width; i++) if (a[i] >= 0) index[at[g] + i] = base + a[i];
        }
    }
    for (ptrdiff_t g = 0; g < (y ? groups : 0); g++) store_some<S>(y + at[g], m[g], width);
    return true;
}
template <class S> INLINE void argmax_wide_columns(const S *x, ptrdiff_t stride, ptrdiff_t n, ptrdiff_t width, bool last, S *y, long long *index) {
    if (last) {
        if (!argmax_columns_of<S, true, false>(x, stride, n, width, y, index)) argmax_columns_of<S, true, true>(x, stride, n, width, y, index);
    } else {
        if (!argmax_columns_of<S, false, false>(x, stride, n, width, y, index)) argmax_columns_of<S, false, true>(x, stride, n, width, y, index);
    }
}
template <class S> INLINE void argmax_columns(const S *x, ptrdiff_t stride, ptrdiff_t n, ptrdiff_t width, bool last, S *y, long long *index) {
    const ptrdiff_t as_one = rows_as_one<S>(stride, n, width), joined = n / as_one * as_one;
    if (as_one == 1) return argmax_wide_columns(x, stride, n, width, last, y, index);
    S found[2 * JOINED * lanes<S>()];
    long long at[2 * JOINED * lanes<S>()];
    ptrdiff_t count = as_one * width;
    argmax_wide_columns(x, as_one * stride, n / as_one, count, last, found, at);
    if (n > joined) {
        argmax_wide_columns(row_at(x, stride, joined), stride, n - joined, width, last, found + count, at + count);
        count += width;
    }
    for (ptrdiff_t c = 0; c < width; c++) {
        acc<S> m = widen<S>(found[c]);
        long long best = at[c] * as_one;
        for (ptrdiff_t i = c + width, k = 1; i < count; i += width, k++) {
            const acc<S> v = widen<S>(found[i]);
            const long long row = k == as_one ? joined + at[i] : at[i] * as_one + k;
            const bool nan = v != v, earlier = row < best;
            if (m != m ? nan && earlier : nan || v > m || (v == m && earlier != last)) m = v, best = row;
        }
        if (y) y[c] = narrow<S>(m);
        index[c] = best;
    }
}

// ---------------------------------------------------------------- gradients of columns

// 0 but in one row of each column, where `values` come; without them 1.
template <class S> void put_in_rows(S *y, ptrdiff_t stride, ptrdiff_t n, ptrdiff_t width, const long long *row, const S *values) {
    for (ptrdiff_t j = 0; j < n; j++) std::memset((void *)row_at(y, stride, j), 0, width * sizeof(S));
    for (ptrdiff_t c = 0; c < width; c++) ((S *)row_at(y, stride, row[c]))[c] = values ? values[c] : narrow<S>(1);
}
// dy where an element is as large as the largest of its column, m; SPLIT among as many as there are.
template <class S, bool SPLIT> __attribute__((noinline)) void put_where_largest(S *dx, ptrdiff_t dx_stride, const S *x, ptrdiff_t stride, ptrdiff_t n, ptrdiff_t width, const S *m, const S *dy) {
    for (ptrdiff_t g = 0; g < width; g += lanes<S>()) {
        const ptrdiff_t some = width - g;
        const Lanes<S> zero = constant<Lanes<S>>(0), largest = load_some<S>(m + g, some, 0);
        const Mask<S> nan = largest != largest;
        Lanes<S> share = load_some<S>(dy + g, some, 0);
        auto alike = [=](ptrdiff_t j) TERM { const Lanes<S> v = load_some<S>(row_at(x, stride, j) + g, some, 0); return (v == largest) | ((v != v) & nan); };
        if (SPLIT) {
            Lanes<S> count = zero;
            for (ptrdiff_t j = 0; j < n; j++) count = count + select(alike(j), constant<Lanes<S>>(1), zero);
            share = share / count;
        }
        for (ptrdiff_t j = 0; j < n; j++) store_some<S>((S *)row_at(dx, dx_stride, j) + g, select(alike(j), share, zero), some);
    }
}
// ties: 0 first, 1 last, 2 split, 3 all.
template <class S> void max_backward_columns(S *dx, ptrdiff_t dx_stride, const S *dy, const S *x, ptrdiff_t stride, ptrdiff_t n, ptrdiff_t width, int ties) {
    S m[COLUMNS * lanes<S>()];
    long long row[COLUMNS * lanes<S>()];
    argmax_columns(x, stride, n, width, ties == 1, m, row);
    if (ties < 2) put_in_rows(dx, dx_stride, n, width, row, dy);
    else if (ties == 2) put_where_largest<S, true>(dx, dx_stride, x, stride, n, width, m, dy);
    else put_where_largest<S, false>(dx, dx_stride, x, stride, n, width, m, dy);
}
template <class S> void hardmax_columns(S *y, ptrdiff_t y_stride, const S *x, ptrdiff_t stride, ptrdiff_t n, ptrdiff_t width) {
    long long row[COLUMNS * lanes<S>()];
    argmax_columns(x, stride, n, width, false, (S *)nullptr, row);
    put_in_rows(y, y_stride, n, width, row, (const S *)nullptr);
}

}  // namespace
}  // namespace softcore
